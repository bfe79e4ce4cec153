"""What the tests of the relay share: events, configurations, relays in threads and in processes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import Job, Run, RunEvent, RunState

from keepline.config import Settings
from keepline.demo.destination import RecordingDestination
from keepline.errors import RelayError
from keepline.event import Event
from keepline.outbox.files import OutboxFiles
from keepline.outbox.journal import Producer
from keepline.outbox.sqlite import reading
from keepline.outbox.status import DestinationStatus, OutboxStatus, read_status
from keepline.relay.lock import RelayInfo, RelayLock, running
from keepline.relay.relay import Relay

SOON = 30.0
"""Seconds: a bound for what takes milliseconds on a machine that does nothing else."""

QUICK = {"backoff_first": 0.02, "backoff_max": 0.1, "look_every": 0.05}
"""Settings under which nothing pauses for long."""

_T = TypeVar("_T")


def until(condition: Callable[[], _T], timeout: float = SOON) -> _T:
    """Wait for a condition, and give what it came to."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)
    return found


def leg(destination: RecordingDestination | str, **more: Any) -> dict[str, Any]:
    """An http transport to a destination."""
    return {"type": "http", "url": destination if isinstance(destination, str) else destination.url, **more}


def transport(outbox: Path, legs: Any, **keys: Any) -> dict[str, Any]:
    """A transport configuration."""
    return {"type": "keepline.Transport", "outbox": str(outbox), "transports": legs, **QUICK, **keys}


def client(outbox: Path, legs: Any, **keys: Any) -> OpenLineageClient:
    return OpenLineageClient(config={"transport": transport(outbox, legs, **keys)})


def run_event(name: str, run: int = 0, state: RunState = RunState.START) -> RunEvent:
    """An event of a run, whose job has this name."""
    return RunEvent(
        eventType=state,
        eventTime="2026-01-01T00:00:00Z",
        run=Run(runId=f"00000000-0000-4000-8000-{run:012d}"),
        job=Job(namespace="tests", name=name),
        producer="https://example.com/keepline-tests",
    )


def append(
    outbox: Path,
    names: Iterable[str],
    *,
    run: Callable[[int], str] = str,
    size: int = 0,
    segment_bytes: int = 1 << 24,
) -> list[str]:
    """Append events to an outbox, each of a run of its own unless told otherwise; starts no relay."""
    producer = Producer(OutboxFiles(outbox), segment_bytes=segment_bytes, lock_timeout=5.0)
    appended = list(names)
    try:
        for number, name in enumerate(appended):
            body = json.dumps({"job": {"name": name}, "run": {"runId": run(number)}, "x": "x" * size})
            producer.append(Event(body.encode(), run(number), "START", "tests", name))
    finally:
        producer.close()
    return appended


def names_in(destination: RecordingDestination) -> list[str]:
    """The job names of the events that a destination has acknowledged, in order."""
    return [event["job"]["name"] for event in destination.events]


def all_once(destination: RecordingDestination, expected: Iterable[str]) -> bool:
    """Whether it has acknowledged these events, each once, and no others."""
    return Counter(names_in(destination)) == Counter(expected)


def arrive_once(destination: RecordingDestination, expected: Iterable[str]) -> None:
    """Wait until it has acknowledged these events, each once, and no others."""
    until(lambda: all_once(destination, expected))


def all_there(destination: RecordingDestination, expected: Iterable[str]) -> bool:
    """Whether it has acknowledged each of these events, some perhaps twice, and no others."""
    return set(names_in(destination)) == set(expected)


def status(outbox: Path) -> OutboxStatus:
    return read_status(OutboxFiles(outbox))


def status_of(outbox: Path, name: str) -> DestinationStatus:
    return next(one for one in status(outbox).destinations if one.name == name)


def settled(outbox: Path) -> bool:
    """Whether everything was taken in, by a relay, and has ended."""
    found = status(outbox)
    return bool(found.destinations) and found.settled


def account(outbox: Path, name: str = "a") -> dict[str, int]:
    """What became of the events that an outbox has accepted, at one destination."""
    found = status(outbox)
    one = next(one for one in found.destinations if one.name == name)
    return {"delivered": one.delivered, "dead": one.dead, "pending": one.pending + found.waiting}


def dead_letters(outbox: Path) -> list[str]:
    """The last answers of what is dead, in the order of appending."""
    with reading(OutboxFiles(outbox)) as connection:
        if connection is None:
            return []
        rows = connection.execute("SELECT answer FROM delivery WHERE state = 2 ORDER BY event").fetchall()
        return [str(answer) for (answer,) in rows]


def relay_of(outbox: Path) -> RelayInfo | None:
    """The relay that runs now, once it has said who it is."""
    deadline = time.monotonic() + SOON
    while True:
        try:
            return running(OutboxFiles(outbox))
        except RelayError:
            assert time.monotonic() < deadline
            time.sleep(0.002)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process, and wait for its end if it is meant to end; it need not be a child."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, number)
        if number == signal.SIGKILL:
            assert select.select([pidfd], [], [], SOON)[0]
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def end_relays(outbox: Path) -> None:
    """Kill what delivers from an outbox, so that no test leaves anything behind."""
    for _ in range(20):
        found = relay_of(outbox) if outbox.is_dir() else None
        if found is None or found.pid == os.getpid():
            return
        kill(found.pid)


class ThreadedRelay:
    """A relay in a thread of this process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        lock = RelayLock.take(OutboxFiles(settings.outbox))
        assert lock is not None, "another relay runs"
        lock.announce(settings)
        self._relay = Relay(settings, lock, ends_when_idle=False)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._relay.run()
        except Exception as error:
            self._error = error

    def idle(self, timeout: float = SOON) -> bool:
        """Wait until everything has ended."""
        return self._relay.wait_idle(timeout)

    def stop(self) -> None:
        self._relay.stop()
        self.join()
        if self._error is not None:
            raise self._error

    def forgive(self) -> None:
        """Don't tell of its error again."""
        self._error = None

    def join(self) -> None:
        self._thread.join(SOON)
        assert not self._thread.is_alive()


class Process:
    """A Python process of its own, with what it has said."""

    def __init__(self, code: str, *words: object, env: Mapping[str, str], cwd: Path) -> None:
        self._out = (cwd / f"out-{time.monotonic_ns()}").open("w+")
        self.popen = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)],
            env={**os.environ, **env},
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self.popen.pid

    @property
    def output(self) -> str:
        return Path(self._out.name).read_text()

    def tell(self, line: str) -> None:
        """Give it a line on its standard input."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def said(self, line: str) -> None:
        """Wait until it has printed a line."""
        until(lambda: line in self.output.splitlines() or self.popen.poll() is not None)
        assert line in self.output.splitlines(), self.output

    def end(self, timeout: float = SOON) -> int:
        """Wait for its end, and give its exit status."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        return self.popen.wait(timeout)

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def close(self) -> None:
        self.popen.kill()
        if self.popen.stdin is not None:
            self.popen.stdin.close()
        self.popen.wait(SOON)
        self._out.close()


EMITTER = """
import sys
from tests.support_relay import emit_as_told
emit_as_told()
"""
"""A process with one client, configured by OPENLINEAGE__TRANSPORT: emits what it is told line by line."""


def emit_as_told() -> None:
    """Read ``<first> <count>`` lines; emit events named so, each of a run of its own; print ``done``."""
    emitting = OpenLineageClient()
    print("ready", flush=True)
    for line in sys.stdin:
        first, count = map(int, line.split())
        for number in range(first, first + count):
            emitting.emit(run_event(str(number), run=number))
        print(f"done {first}", flush=True)


def switches(pid: int) -> int:
    """How often a process has been switched to, voluntarily or not, over all its threads."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if "ctxt_switches" in line:
                total += int(line.split()[1])
    return total


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def sockets(pid: int | str = "self") -> list[str]:
    """The sockets that a process has open."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(fd.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:"):
            found.append(target)
    return sorted(found)
