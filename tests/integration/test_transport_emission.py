"""What emitting does to a process: it appends, and opens, starts and imports nothing else."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.support_outbox import child
from tests.support_relay import (
    EMITTER,
    Process,
    all_once,
    all_there,
    client,
    dead_letters,
    leg,
    relay_of,
    run_event,
    settled,
    sockets,
    status,
    threads,
    transport,
    until,
)

from keepline.demo.destination import Fault, RecordingDestination
from keepline.errors import OutboxLocked

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

KEY = "s3cr3t-key-of-nobody"


@pytest.mark.parametrize("relay", ["auto", "external"])
def test_emitting_opens_no_socket_and_starts_no_thread(
    relay: str, destination: RecordingDestination, outbox: Path, process: Callable[..., Process]
) -> None:
    legs = {"a": leg(destination), "b": leg(destination, type="async_http")}
    settings = transport(outbox, legs, relay=relay)
    emitter = process(EMITTER, OPENLINEAGE__TRANSPORT=json.dumps(settings))
    emitter.said("ready")
    before = sockets(emitter.pid), threads(emitter.pid)
    emitter.tell("0 200")
    emitter.said("done 0")
    assert (sockets(emitter.pid), threads(emitter.pid)) == before == ([], 1)


def test_a_destination_that_never_answers_delays_no_emit(
    destination: RecordingDestination, outbox: Path, process: Callable[..., Process]
) -> None:
    destination.fault(Fault.NO_ANSWER)
    settings = transport(outbox, {"a": leg(destination)})
    emitter = process(EMITTER, OPENLINEAGE__TRANSPORT=json.dumps(settings))
    emitter.tell("0 500")
    emitter.said("done 0")
    assert emitter.end() == 0
    assert status(outbox).waiting + sum(one.pending for one in status(outbox).destinations) == 500


@pytest.mark.skipif(not Path("/usr/bin/strace").exists(), reason="needs strace")
def test_the_system_sees_an_emit_do_nothing_but_append(outbox: Path, environment: Path) -> None:
    settings = transport(outbox, {"a": leg("http://127.0.0.1:1")}, relay="external")
    code = (
        "from tests.support_relay import *\n"
        "c = OpenLineageClient(); c.emit(run_event('first'))\n"
        "os.write(2, b'<begin>'); [c.emit(run_event(str(n))) for n in range(3)]; os.write(2, b'<end>')"
    )
    traced = subprocess.run(
        ["strace", "-f", "-qq", "-o", environment / "trace", sys.executable, "-c", code],
        env={**os.environ, "OPENLINEAGE__TRANSPORT": json.dumps(settings)},
        capture_output=True,
        check=False,
    )
    if b"ptrace" in traced.stderr.lower():
        pytest.skip("strace may not trace here")
    lines = (environment / "trace").read_text().splitlines()
    begin, end = (next(i for i, line in enumerate(lines) if mark in line) for mark in ("<begin>", "<end>"))
    calls = {line.split()[1].partition("(")[0] for line in lines[begin + 1 : end]}
    looks = {"newfstatat", "fstat", "stat", "statx", "getpid", "brk", "mmap", "munmap", "mremap"}
    assert calls - looks == {"flock", "write"}


def test_a_fork_of_a_process_that_has_emitted_emits_too(
    destination: RecordingDestination, outbox: Path
) -> None:
    emitting = client(outbox, {"a": leg(destination)})
    emitting.emit(run_event("before"))

    def emit(name: str) -> None:
        for number in range(100):
            emitting.emit(run_event(f"{name}{number}", run=ord(name) * 1000 + number))

    with child(partial(emit, "x")) as one, child(partial(emit, "y")) as two:
        emit("z")
        assert (one.end(), two.end()) == (0, 0)
    expected = ["before", *(f"{name}{number}" for name in "xyz" for number in range(100))]
    until(lambda: all_there(destination, expected))
    assert all_once(destination, expected)


def test_an_event_that_can_t_be_appended_raises_and_is_counted(outbox: Path) -> None:
    emitting = client(outbox, {"a": leg("http://127.0.0.1:1")}, relay="external", lock_timeout=0.1)
    emitting.emit(run_event("one"))
    (segment,) = (outbox / "journal").iterdir()
    with segment.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OutboxLocked):
            emitting.emit(run_event("lost"))
    emitting.emit(run_event("two"))
    assert (status(outbox).waiting, status(outbox).refused) == (2, 1)


def test_nothing_that_goes_wrong_with_the_relay_reaches_emit(
    outbox: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", None)
    emitting = client(outbox, {"a": leg("http://127.0.0.1:1")})
    for number in range(3):
        emitting.emit(run_event(str(number)))
    assert status(outbox).waiting == 3
    assert relay_of(outbox) is None
    (warning,) = (one.getMessage() for one in caplog.records if one.name.startswith("keepline"))
    assert warning.startswith("keepline can't start its relay; events wait in the outbox: can't start")
    assert "`keepline relay`" in warning


def test_wake_starts_a_relay_where_something_waits_and_none_where_nothing_does(
    destination: RecordingDestination, outbox: Path
) -> None:
    legs = {"a": leg(destination)}
    waking = client(outbox, legs).transport
    waking.wake()  # type: ignore[attr-defined]
    assert relay_of(outbox) is None
    client(outbox, legs, relay="external").emit(run_event("one"))
    assert relay_of(outbox) is None
    waking.wake()  # type: ignore[attr-defined]
    until(lambda: all_once(destination, ["one"]))


# Secrets


def test_a_key_is_nowhere_but_on_the_wire(
    destination: RecordingDestination,
    outbox: Path,
    process: Callable[..., Process],
    keepline: Callable[..., Process],
) -> None:
    legs = {
        "a": leg(
            destination.url.replace("://", f"://user:{KEY}@") + f"/?token={KEY}",
            auth={"type": "api_key", "apiKey": KEY},
            custom_headers={"X-Also": KEY},
        ),
        "d": {"type": "datadog", "apiKey": KEY, "site": destination.url},
        "away": leg(f"http://me:{KEY}@nowhere.invalid/?key={KEY}", auth={"type": "api_key", "apiKey": KEY}),
        "driven": leg(
            f"http://nowhere.invalid/?key={KEY}",
            auth={"type": "jwt", "apiKey": KEY, "tokenEndpoint": f"http://nowhere.invalid/?key={KEY}"},
        ),
    }
    destination.answer(400, body=f"what a key: {KEY}".encode(), times=2)
    settings = transport(outbox, legs)
    emitter = process(EMITTER, OPENLINEAGE__TRANSPORT=json.dumps(settings))
    emitter.tell("0 5")
    emitter.said("done 0")
    destination.wait_for(lambda d: len(d.received) == 10, 30)
    until(lambda: all(one.last_answer for one in status(outbox).destinations))
    relay = relay_of(outbox)
    assert relay is not None
    shown = keepline("status", "--json", "--outbox", outbox)
    assert shown.end() == 0
    flushed = keepline("flush", "--timeout", "0", "--outbox", outbox)
    assert flushed.end() == 3
    assert KEY not in Path(f"/proc/{relay.pid}/cmdline").read_text()
    assert KEY not in shown.output + flushed.output + emitter.output
    kept = [path for path in outbox.rglob("*") if path.is_file()]
    assert {"ledger.db", "relay.log", "relay.lock"} <= {path.name for path in kept}
    assert [path.name for path in kept if KEY.encode() in path.read_bytes()] == []
    assert "HTTP 400: what a key: ***" in dead_letters(outbox)
    assert sum(KEY in one.headers["authorization"] for one in destination.received) == 10


def test_the_folder_and_files_are_their_owner_s_alone(
    destination: RecordingDestination, outbox: Path
) -> None:
    before = os.umask(0)
    try:
        client(outbox, {"a": leg(destination)}).emit(run_event("one"))
        until(lambda: settled(outbox))
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o777 for path in (outbox, *outbox.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} <= {0o600, 0o400}
