"""Starting a relay from odd places: odd paths, odd interpreters, odd settings, odd processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.support_outbox import child
from tests.support_relay import (
    Process,
    Settings,
    arrive_once,
    client,
    end_relays,
    leg,
    relay_of,
    run_event,
    status,
    transport,
    until,
)

from keepline.demo.destination import RecordingDestination
from keepline.errors import RelayError
from keepline.outbox.files import OutboxFiles
from keepline.relay import launch
from keepline.relay.lock import RelayInfo, RelayLock, running, this_place

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

Start = Callable[..., Process]

EMIT_ONE = (
    "from openlineage.client import OpenLineageClient\n"
    "from openlineage.client.event_v2 import Job, Run, RunEvent, RunState\n"
    "run = Run(runId='00000000-0000-4000-8000-000000000000')\n"
    "job = Job(namespace='tests', name='one')\n"
    "OpenLineageClient().emit(RunEvent(eventType=RunState.START, eventTime='2026-01-01T00:00:00Z',"
    " run=run, job=job, producer='https://example.com/x'))\n"
)
"""Emits an event named ``one``, with nothing but what users have."""


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Gives folders of outboxes, by name."""
    made: list[Path] = []

    def make(name: str) -> Path:
        made.append(tmp_path / name)
        return made[-1]

    yield make
    for folder in made:
        end_relays(folder)


@pytest.mark.parametrize(
    "name",
    [
        "some spaces",
        "'quotes\" and $(words)",
        "l\u00edneas \u2603",
        "new\nline",
        "-x",
        f"{'a' * 200}/{'b' * 200}",
    ],
    ids=["spaces", "quotes", "unicode", "newline", "dash", "long"],
)
def test_an_outbox_can_have_any_path(
    name: str, odd: Callable[[str], Path], destination: RecordingDestination, keepline: Start
) -> None:
    outbox = odd(name)
    client(outbox, {"a": leg(destination)}, relay_idle=0.1).emit(run_event("one"))
    arrive_once(destination, ["one"])
    shown = keepline("status", "--json", f"--outbox={outbox}")
    assert shown.end() == 0
    assert json.loads(shown.output)["outbox"] == str(outbox)
    until(lambda: relay_of(outbox) is None)


def run(words: list[str], outbox: Path, destination: RecordingDestination, cwd: Path, **env: str) -> None:
    """Run Python with these words, in an environment that says next to nothing."""
    settings = json.dumps(transport(outbox, {"a": leg(destination)}, relay_idle=0.1))
    known = {"OPENLINEAGE__TRANSPORT": settings, "HOME": str(cwd), "PATH": os.environ["PATH"], **env}
    ran = subprocess.run(
        [sys.executable, *words], env=known, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    "flags", [["-I"], ["-s", "-E"], ["-P"], ["-B", "-O"], ["-X", "dev", "-W", "error"]], ids=" ".join
)
def test_an_interpreter_can_have_any_flags(
    flags: list[str], outbox: Path, destination: RecordingDestination, environment: Path
) -> None:
    if sys.version_info < (3, 11) and "-P" in flags:
        pytest.skip("this Python has no -P")
    run([*flags, "-c", EMIT_ONE], outbox, destination, environment)
    arrive_once(destination, ["one"])


@pytest.mark.parametrize(
    "env",
    [{"PYTHONSAFEPATH": "1"}, {"PYTHONWARNINGS": "error"}, {"HUGE": "x" * 100_000}],
    ids=lambda env: next(iter(env)),
)
def test_an_environment_can_say_anything(
    env: dict[str, str], outbox: Path, destination: RecordingDestination, environment: Path
) -> None:
    run(["-c", EMIT_ONE], outbox, destination, environment, **env)
    arrive_once(destination, ["one"])


def test_keepline_is_found_where_the_starter_has_found_it(
    outbox: Path, destination: RecordingDestination, environment: Path
) -> None:
    # No site-packages: all that the starter has, it has put into its path itself.
    path = [entry for entry in sys.path if entry]
    code = f"import sys; sys.path[:] = {path!r}; sys.path.insert(0, '')\n" + EMIT_ONE
    run(["-S", "-c", code], outbox, destination, environment)
    arrive_once(destination, ["one"])


@pytest.mark.parametrize(
    "place", ["beside the script", "in the working folder", "in the path", "in PYTHONPATH"]
)
def test_a_transport_of_the_user_s_own_is_found_where_the_starter_finds_it(
    place: str, outbox: Path, environment: Path, tmp_path: Path
) -> None:
    folder = environment if place == "in the working folder" else tmp_path / "own"
    folder.mkdir(exist_ok=True)
    written = tmp_path / "written"
    (folder / "mine.py").write_text(
        "from openlineage.client.transport.transport import Transport\n"
        "class Mine(Transport):\n"
        "    def __init__(self, config): pass\n"
        f"    def emit(self, event): open({str(written)!r}, 'a').write(event.job.name)\n"
    )
    script = folder / "script.py"
    script.write_text(EMIT_ONE)
    settings = json.dumps(transport(outbox, {"a": {"type": "mine.Mine"}}, relay_idle=0.1))
    env = {"OPENLINEAGE__TRANSPORT": settings, "HOME": str(environment), "PATH": os.environ["PATH"]}
    words = {
        "beside the script": [str(script)],
        "in the working folder": ["-c", EMIT_ONE],
        "in the path": ["-c", f"import sys; sys.path.append('../{folder.name}')\n{EMIT_ONE}"],
        "in PYTHONPATH": ["-c", EMIT_ONE],
    }[place]
    if place == "in PYTHONPATH":
        env["PYTHONPATH"] = str(folder)
    subprocess.run([sys.executable, *words], env=env, cwd=environment, check=True)
    until(lambda: written.exists() and written.read_text() == "one")


def test_a_working_folder_that_is_gone_keeps_nobody_from_starting_a_relay(
    outbox: Path, destination: RecordingDestination, environment: Path
) -> None:
    go = "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); client.emit"
    code = EMIT_ONE.replace("OpenLineageClient().emit", f"client = OpenLineageClient()\n{go}")
    run(["-c", code], outbox, destination, environment)
    arrive_once(destination, ["one"])


@pytest.mark.parametrize("kilobytes", [60, 200, 5_000])
def test_settings_can_be_of_any_size(kilobytes: int, outbox: Path, destination: RecordingDestination) -> None:
    legs = {"a": leg(destination, custom_headers={"X-Small": "x"}, retry={"note": "x" * kilobytes * 1000})}
    client(outbox, legs).emit(run_event("one"))
    arrive_once(destination, ["one"])


def test_a_relay_that_doesn_t_take_its_settings_holds_up_an_emit_for_a_bounded_time_only(
    outbox: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deaf = tmp_path / "deaf"
    deaf.write_text("#!/bin/sh\nexec sleep 60\n")
    deaf.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(deaf))
    monkeypatch.setattr(launch, "_HAND_OVER_SECONDS", 0.2)
    emitting = client(outbox, {"a": leg("http://127.0.0.1:1", retry={"note": "x" * 200_000})})
    began = time.monotonic()
    emitting.emit(run_event("one"))
    assert time.monotonic() - began < 2
    assert "doesn't take its settings" in caplog.text
    assert status(outbox).waiting == 1
    for one in psutil.Process().children():
        one.kill()
    until(lambda: launch.reap() or not launch.launched())


def test_a_process_that_is_no_relay_is_told_of_and_collected(
    outbox: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    before = psutil.Process().children()
    emitting = client(outbox, {"a": leg("http://127.0.0.1:1")})
    emitting.emit(run_event("one"))

    def told() -> bool:
        emitting.emit(run_event("more"))
        return "could not be started (exit status 1)" in caplog.text

    until(told)
    assert [child for child in psutil.Process().children() if child not in before] == []
    assert relay_of(outbox) is None


def test_signals_that_the_starter_keeps_from_itself_reach_the_relay(
    outbox: Path, destination: RecordingDestination, keepline: Start
) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        client(outbox, {"a": leg(destination)}).emit(run_event("one"))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    arrive_once(destination, ["one"])
    stopped = keepline("stop", "--outbox", outbox)
    assert stopped.end() == 0, stopped.output
    assert relay_of(outbox) is None


def test_a_fork_of_the_starter_keeps_neither_the_relay_s_lock_nor_its_settings_open(
    outbox: Path, destination: RecordingDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Right in the middle of starting: a child that lives on, with a copy of what was open then.
    popen = subprocess.Popen
    children: list[int] = []

    def fork_first(*args: object, **kwargs: object) -> object:
        started = popen(*args, **kwargs)  # type: ignore[call-overload]
        children.append(os.fork())
        if children[-1] == 0:
            signal.pause()
            os._exit(0)
        return started

    monkeypatch.setattr(launch.subprocess, "Popen", fork_first)
    emitting = client(outbox, {"a": leg(destination)}, relay_idle=0.1)
    emitting.emit(run_event("one"))
    try:
        assert len(children) == 1
        arrive_once(destination, ["one"])
        until(lambda: relay_of(outbox) is None)
        monkeypatch.undo()
        lock = RelayLock.take(OutboxFiles(outbox))
        assert lock is not None
        lock.release()
    finally:
        os.kill(children[0], signal.SIGKILL)
        os.waitpid(children[0], 0)


# The lock


def test_a_child_doesn_t_have_the_lock_of_its_parent_and_can_t_keep_it(outbox: Path) -> None:
    files = OutboxFiles(outbox)
    lock = RelayLock.take(files)
    assert lock is not None

    def look() -> None:
        assert not lock.held
        assert RelayLock.take(files) is None
        lock.release()

    with child(look) as one:
        assert one.end() == 0
    assert RelayLock.take(files) is None
    with child(signal.pause):
        lock.release()
        again = RelayLock.take(files)
        assert again is not None
        again.release()


def test_a_lock_tells_who_holds_it(outbox: Path) -> None:
    files = OutboxFiles(outbox)
    assert running(files) is None
    lock = RelayLock.take(files)
    assert lock is not None
    with pytest.raises(RelayError, match="just starting"):
        running(files)
    settings = Settings.from_dict(transport(outbox, {"a": leg("http://127.0.0.1:1")}))
    lock.announce(settings)
    found = running(files)
    assert isinstance(found, RelayInfo)
    assert (found.pid, found.place) == (os.getpid(), this_place())
    assert found.serves(settings)
    assert not found.serves(Settings.from_dict(transport(outbox, {"a": leg("http://127.0.0.1:2")})))
    lock.release()
    lock.release()
    assert running(files) is None


def test_many_who_only_look_keep_nobody_from_taking_the_lock(outbox: Path) -> None:
    files = OutboxFiles(outbox)
    files.create()
    files.relay_lock.touch()

    def look() -> None:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            try:
                running(files)
            except RelayError:
                continue

    with child(look) as one, child(look) as two, child(look) as three:
        for _ in range(200):
            lock = RelayLock.take(files)
            assert lock is not None
            lock.release()
        assert (one.end(), two.end(), three.end()) == (0, 0, 0)


def test_of_two_that_take_the_lock_at_once_one_gets_it(outbox: Path) -> None:
    files = OutboxFiles(outbox)
    files.create()
    taken = outbox / "taken"

    def take() -> None:
        for _ in range(300):
            lock = RelayLock.take(files)
            if lock is not None:
                taken.touch(exist_ok=False)
                taken.unlink()
                lock.release()

    with child(take) as one, child(take) as two, child(take) as three:
        assert (one.end(), two.end(), three.end()) == (0, 0, 0)
