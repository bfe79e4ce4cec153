"""``relay: auto``: whoever appends first starts one relay; it lives apart, ends when idle, comes again."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from tests.support_relay import (
    EMITTER,
    Process,
    account,
    all_once,
    all_there,
    arrive_once,
    client,
    kill,
    leg,
    names_in,
    relay_of,
    run_event,
    settled,
    status,
    transport,
    until,
)

from keepline.config import Settings
from keepline.demo.destination import RecordingDestination
from keepline.outbox.files import OutboxFiles
from keepline.relay import trouble, watch
from keepline.relay.lock import RelayInfo, RelayLock, this_place
from keepline.relay.relay import Relay

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(120)]

Start = Callable[..., Process]


def emitter(process: Start, outbox: Path, destination: RecordingDestination, **keys: object) -> Process:
    """A process with a client, told what to emit."""
    settings = transport(outbox, {"a": leg(destination)}, **keys)
    return process(EMITTER, OPENLINEAGE__TRANSPORT=json.dumps(settings))


def emit(one: Process, first: int, count: int) -> list[str]:
    one.tell(f"{first} {count}")
    one.said(f"done {first}")
    return [str(number) for number in range(first, first + count)]


def deliverers(outbox: Path) -> list[int]:
    """The processes that have an outbox's ledger open."""
    found = []
    for one in psutil.process_iter():
        try:
            if any(Path(file.path) == outbox / "ledger.db" for file in one.open_files()):
                found.append(one.pid)
        except psutil.Error:
            continue
    return found


def relay_pid(outbox: Path) -> int:
    found = until(lambda: relay_of(outbox))
    return found.pid


# Starting


def test_of_16_processes_that_append_first_one_starts_the_relay_and_each_event_arrives_once(
    process: Start, outbox: Path, destination: RecordingDestination
) -> None:
    emitters = [emitter(process, outbox, destination) for _ in range(16)]
    for one in emitters:
        one.said("ready")
    for number, one in enumerate(emitters):
        one.tell(f"{number * 100} 20")
    for number, one in enumerate(emitters):
        one.said(f"done {number * 100}")
    expected = [str(number * 100 + each) for number in range(16) for each in range(20)]
    until(lambda: settled(outbox))
    assert all_once(destination, expected)
    assert deliverers(outbox) == [relay_pid(outbox)]
    # Nobody else was started and lost the race: the log tells of one process.
    assert (outbox / "relay.log").read_text().count("delivers to a\n") == 1


def test_a_relay_has_no_parent_among_us_and_a_session_of_its_own(
    process: Start, outbox: Path, destination: RecordingDestination
) -> None:
    starter = emitter(process, outbox, destination)
    emit(starter, 0, 1)
    relay = psutil.Process(relay_pid(outbox))
    until(lambda: relay.ppid() != starter.pid)
    assert relay.pid not in {one.pid for one in psutil.Process(starter.pid).children(recursive=True)}
    assert os.getsid(relay.pid) != os.getsid(starter.pid)
    assert os.getpgid(relay.pid) not in (os.getpgid(starter.pid), os.getpgid(0))
    assert relay.cwd() == "/"
    assert relay.terminal() is None


def test_the_relay_outlives_its_starter_the_starter_s_children_and_its_process_group(
    process: Start, outbox: Path, destination: RecordingDestination
) -> None:
    destination.down()
    starter = process(
        "import os, sys\nos.setsid()\nfrom tests.support_relay import emit_as_told\nemit_as_told()",
        OPENLINEAGE__TRANSPORT=json.dumps(transport(outbox, {"a": leg(destination)})),
    )
    names = emit(starter, 0, 10)
    pid = relay_pid(outbox)
    until(lambda: pid not in {one.pid for one in psutil.Process(starter.pid).children(recursive=True)})
    for one in psutil.Process(starter.pid).children(recursive=True):
        one.kill()
    os.killpg(starter.pid, signal.SIGKILL)
    assert starter.end() == -signal.SIGKILL
    destination.up()
    until(lambda: settled(outbox))
    assert all_once(destination, names)
    assert relay_pid(outbox) == pid


def test_no_zombie_is_left_in_the_starter(
    process: Start, outbox: Path, destination: RecordingDestination
) -> None:
    starter = emitter(process, outbox, destination)
    emit(starter, 0, 1)
    relay_pid(outbox)
    emitted = 1

    def no_children() -> bool:
        nonlocal emitted
        emit(starter, emitted, 1)
        emitted += 1
        return not psutil.Process(starter.pid).children()

    until(no_children)


def test_a_starter_that_ends_at_once_leaves_no_warning(
    process: Start, outbox: Path, destination: RecordingDestination
) -> None:
    settings = json.dumps(transport(outbox, {"a": leg(destination)}))
    one = process(
        "import warnings; warnings.simplefilter('error')\n"
        "from tests.support_relay import OpenLineageClient, run_event\n"
        "OpenLineageClient().emit(run_event('one'))",
        OPENLINEAGE__TRANSPORT=settings,
        PYTHONDEVMODE="1",
    )
    assert one.end() == 0
    assert "ResourceWarning" not in one.output
    until(lambda: all_once(destination, ["one"]))


def test_a_relay_that_can_t_begin_leaves_the_events_and_says_why(
    process: Start, outbox: Path, destination: RecordingDestination
) -> None:
    # A transport that the starter has and the relay hasn't: made up in the starter's memory.
    settings = transport(outbox, {"a": {"type": "made_up.Here"}})
    one = process(
        "import sys, types\n"
        "from openlineage.client.transport.transport import Transport\n"
        "made_up = sys.modules['made_up'] = types.ModuleType('made_up')\n"
        "made_up.Here = type('Here', (Transport,), {})\n" + EMITTER,
        OPENLINEAGE__TRANSPORT=json.dumps(settings),
    )
    emit(one, 0, 3)
    log = outbox / "relay.log"
    until(lambda: "events wait in the outbox" in log.read_text())
    assert "Failed to import made_up.Here" in log.read_text()
    until(lambda: relay_of(outbox) is None)
    assert status(outbox).waiting == 3


def test_looks_for_a_relay_that_can_t_live_become_rare_and_are_told_of(
    outbox: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[float] = []
    clock = 1000.0
    monkeypatch.setattr(watch, "start", lambda settings: not started.append(clock))
    for module in (watch, trouble):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock))
    settings = Settings.from_dict(transport(outbox, {"a": leg("http://127.0.0.1:1")}, look_every=5))
    watching = watch.Watch(settings)
    watching.look(now=True)
    for _ in range(10_000):
        clock += 0.1
        watching.look(now=False)
    gaps = [round(later - earlier) for earlier, later in itertools.pairwise(started)]
    assert gaps == [5, 5, 10, 20, 40, 80, 160, 320, 320]
    assert "has ended again and was started anew" in caplog.text
    assert str(outbox / "relay.log") in caplog.text


def test_a_process_is_told_that_the_relay_has_other_settings_than_its_own(
    outbox: Path, destination: RecordingDestination, caplog: pytest.LogCaptureFixture
) -> None:
    client(outbox, {"a": leg(destination)}).emit(run_event("one"))
    arrive_once(destination, ["one"])
    same = Settings.from_dict(transport(outbox, {"a": leg(destination)}))
    watch.Watch(same).look(now=True)
    assert "other settings" not in caplog.text
    other = Settings.from_dict(transport(outbox, {"b": leg("http://127.0.0.1:1")}))
    watch.Watch(other).look(now=True)
    assert "other settings" in caplog.text


# Being killed


def test_a_relay_that_was_killed_is_missed_before_it_is_time_to_look_again(
    outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    looks: list[float] = []
    relay = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    info = RelayInfo(relay.pid, place=this_place(), version="", started_at=0.0, salt="", digest="")

    def start(_: Settings) -> bool:
        looks.append(clock)
        return len(looks) == 1

    monkeypatch.setattr(watch, "start", start)
    monkeypatch.setattr(watch, "running", lambda _: info)
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: clock))
    watching = watch.Watch(
        Settings.from_dict(transport(outbox, {"a": leg("http://127.0.0.1:1")}, look_every=5))
    )
    with relay:
        for at, now in ((0.0, True), (1.0, False), (6.0, False), (7.0, False)):
            clock = at
            watching.look(now=now)
        assert looks == [0.0, 6.0]
        relay.kill()
    clock = 7.1
    watching.look(now=False)
    assert looks == [0.0, 6.0, 7.1]


class Steady:
    """A process that goes on emitting, by which a killed relay is replaced."""

    def __init__(self, one: Process) -> None:
        self._one = one
        self.names: list[str] = []

    def emit(self, count: int) -> None:
        self.names += emit(self._one, len(self.names), count)

    def emit_until_replaced(self, outbox: Path, pid: int) -> None:
        """Emit until a relay lives that isn't this one."""

        def replaced() -> bool:
            self.emit(1)
            found = relay_of(outbox)
            return found is not None and found.pid != pid

        until(replaced)


def test_a_killed_relay_is_replaced_at_a_next_append_and_nothing_is_lost(
    process: Start, outbox: Path, destination: RecordingDestination
) -> None:
    destination.answer(201, delay=0.05)
    steady = Steady(emitter(process, outbox, destination))
    steady.emit(40)
    for _ in range(3):
        pid = relay_pid(outbox)
        destination.wait_for(lambda d: d.in_flight > 0, 30)
        kill(pid)
        steady.emit(20)
        steady.emit_until_replaced(outbox, pid)
    until(lambda: settled(outbox))
    assert all_there(destination, steady.names)
    # Twice is only what was under way: so many for each relay that was killed.
    assert len(names_in(destination)) <= len(steady.names) + 3 * 4
    assert account(outbox) == {"delivered": len(steady.names), "dead": 0, "pending": 0}


def test_a_relay_killed_between_an_answer_and_its_mark_repeats_no_more_than_was_under_way(
    process: Start, outbox: Path, destination: RecordingDestination
) -> None:
    steady = Steady(emitter(process, outbox, destination, max_connections=4))
    chance = random.Random(3)
    for _ in range(10):
        steady.emit(100)
        pid = relay_pid(outbox)
        wanted = len(steady.names) - chance.randrange(100)
        destination.wait_for(partial(lambda least, d: len(d.events) >= least, wanted), 30)
        kill(pid)
        steady.emit_until_replaced(outbox, pid)
    until(lambda: settled(outbox))
    assert all_there(destination, steady.names)
    # Of each relay that was killed, what its four connections had under way or answered.
    assert len(names_in(destination)) - len(steady.names) <= 10 * 4
    assert account(outbox) == {"delivered": len(steady.names), "dead": 0, "pending": 0}


# Ending when idle


def test_an_idle_relay_ends_and_an_append_of_the_same_process_starts_another(
    process: Start, outbox: Path, destination: RecordingDestination
) -> None:
    one = emitter(process, outbox, destination, relay_idle=0.1, look_every=3600)
    names: list[str] = []
    for turn in range(3):
        names += emit(one, turn * 10, 5)
        arrive_once(destination, names)
        until(lambda: relay_of(outbox) is None)
        assert list((outbox / "journal").iterdir()) == []
    # A relay gives its lock back first, so that the next append starts another, and says so then.
    until(lambda: (outbox / "relay.log").read_text().count("nothing left to deliver") == 3)


def test_an_idle_relay_ends_and_an_append_of_another_process_starts_another(
    process: Start, outbox: Path, destination: RecordingDestination
) -> None:
    emitters = [emitter(process, outbox, destination, relay_idle=0.1, look_every=3600) for _ in range(2)]
    names = emit(emitters[0], 0, 5)
    until(lambda: relay_of(outbox) is None and all_once(destination, names))
    for first in (10, 20):
        for number, one in enumerate(emitters):
            names += emit(one, first + 5 * number, 5)
            arrive_once(destination, names)
            until(lambda: relay_of(outbox) is None)


def test_a_relay_does_not_end_while_something_waits(
    process: Start, outbox: Path, destination: RecordingDestination
) -> None:
    destination.down()
    one = emitter(process, outbox, destination, relay_idle=0.05)
    names = emit(one, 0, 3)
    pid = relay_pid(outbox)
    until(lambda: status(outbox).destinations and status(outbox).destinations[0].state == "out")
    seen = len((outbox / "relay.log").read_text())
    end = time.monotonic() + 0.5  # ten times as long as an idle relay would stay
    while time.monotonic() < end:
        assert relay_pid(outbox) == pid
    assert len((outbox / "relay.log").read_text()) == seen
    destination.up()
    until(lambda: all_once(destination, names))


def test_no_event_is_left_behind_however_an_append_meets_the_end_of_an_idle_relay(
    outbox: Path, destination: RecordingDestination, process: Start
) -> None:
    # Three processes append at random moments around the end of a relay that hardly waits; no look but the
    # one that the end of a relay calls for ever happens.
    rounds = 70
    code = (
        "import random, sys, time\n"
        "from tests.support_relay import OpenLineageClient, run_event\n"
        "chance, base = random.Random(int(sys.argv[1])), int(sys.argv[1])\n"
        "c = OpenLineageClient()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        f"for number in range({rounds}):\n"
        "    c.emit(run_event(f'{base}-{number}', run=base * 1000 + number))\n"
        "    time.sleep(chance.uniform(0, 0.12))\n"
        "print('done', flush=True)\n"
    )
    settings = transport(outbox, {"a": leg(destination)}, relay_idle=0.005, look_every=3600)
    emitters = [process(code, base, OPENLINEAGE__TRANSPORT=json.dumps(settings)) for base in range(3)]
    for one in emitters:
        one.said("ready")
    for one in emitters:
        one.tell("go")
    for one in emitters:
        one.said("done")
    expected = [f"{base}-{number}" for base in range(3) for number in range(rounds)]
    until(lambda: len(names_in(destination)) >= len(expected))
    assert all_once(destination, expected)
    until(lambda: relay_of(outbox) is None)
    ends = (outbox / "relay.log").read_text().count("nothing left to deliver")
    assert ends >= 3, "no relay came to its end, so nothing was tried"


def test_no_event_is_left_behind_by_relays_that_end_in_this_process_at_random_moments(
    outbox: Path, destination: RecordingDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same meeting, many times over: the relay is a thread here, and starts in no time.
    relays: list[threading.Thread] = []

    def start(settings: Settings) -> bool:
        lock = RelayLock.take(OutboxFiles(settings.outbox))
        if lock is None:
            return False
        relay = Relay(settings, lock, ends_when_idle=True)
        relays.append(threading.Thread(target=relay.run))
        relays[-1].start()
        return True

    monkeypatch.setattr(watch, "start", start)
    emitting = client(outbox, {"a": leg(destination)}, relay_idle=0.001, look_every=3600)
    chance = random.Random(11)
    names = []
    for number in range(600):
        names.append(str(number))
        emitting.emit(run_event(str(number), run=number))
        time.sleep(chance.uniform(0, 0.012))  # not to wait for anything: to meet the end at any moment
    until(lambda: len(names_in(destination)) >= len(names))
    for one in relays:
        one.join(30)
    assert all_once(destination, names)
    assert len(relays) >= 100
