"""What the tests of the outbox share: events, a look at all of a journal, children that can be killed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from keepline.event import Event
from keepline.outbox.batch import backlog, read
from keepline.outbox.delivery import Pending
from keepline.outbox.files import OutboxFiles
from keepline.outbox.journal import Producer
from keepline.outbox.ledger import Ledger
from keepline.outbox.reader import is_full, read_next, retire
from keepline.outbox.record import Damage
from keepline.outbox.segments import segment_numbers
from keepline.outbox.waiting import Waiting

SOON = 20.0
"""Seconds: a bound for what takes milliseconds on a machine that does nothing else."""


def event(name: str, *, run: str = "run", size: int = 0) -> Event:
    body = json.dumps({"name": name, "padding": "x" * size}).encode()
    return Event(body, run, "START", "namespace", name)


_producers: list[Producer] = []


def producer(files: OutboxFiles, *, segment_bytes: int = 1 << 24, lock_timeout: float = 2.0) -> Producer:
    """What a process has one of, for its life."""
    _producers.append(Producer(files, segment_bytes=segment_bytes, lock_timeout=lock_timeout))
    return _producers[-1]


def close_producers() -> None:
    while _producers:
        _producers.pop().close()


def names(files: OutboxFiles) -> list[str]:
    """The job names of all events in the journal, in order."""
    return [
        entry.event.job_name
        for number in segment_numbers(files)
        for entry in backlog(files, number, 0)
        if json.loads(entry.event.body)["name"] == entry.event.job_name
    ]


def end_of(files: OutboxFiles, number: int) -> int:
    """Where the last event of a segment ends, bytes."""
    return max((entry.end for entry in backlog(files, number, 0)), default=0)


def damages(files: OutboxFiles) -> list[Damage]:
    """What a reader of the whole journal skips."""
    found: list[Damage] = []
    for number in segment_numbers(files):
        position, more = 0, True
        while more:
            batch = read(files, number, position, limit=1000)
            found += batch.damages
            position, more = batch.position, batch.more
    return found


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.0005)


class Child:
    """A forked process that runs one function."""

    def __init__(self, function: Callable[[], object]) -> None:
        with warnings.catch_warnings():
            # Python 3.12 and later warn of a fork beside threads, which is what some tests are about.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                function()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        self._status: int | None = None

    def end(self) -> int:
        """Wait for its end; its exit status, or minus the signal that ended it."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def has_ended(self) -> bool:
        """Whether it has."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status is not None

    def kill(self) -> int:
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.end()


@contextmanager
def child(function: Callable[[], object]) -> Iterator[Child]:
    """A child that doesn't outlive the block."""
    process = Child(function)
    try:
        yield process
    finally:
        process.kill()


def wait_for_the_kill() -> None:
    """Stay, but not longer than any test, so that a failed one leaves nothing behind."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(120)
    os.read(os.pipe()[0], 1)


class Reports:
    """Where a child writes down what was accepted, after it was, in a way that survives ``kill -9``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def accepted(self, name: str) -> None:
        os.write(self._fd, f"{name}\n".encode())

    def read(self) -> list[str]:
        return self._path.read_text().split()


@contextmanager
def small_disk(folder: Path, *, kilobytes: int) -> Iterator[Path]:
    """A disk of its own, which fills up soon.

    Mounting it takes root's rights, or those of root in a user namespace (``unshare -Urm``).
    """
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte free on a disk."""
    path = folder / "filler"
    with path.open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return path


def take_all_in(
    files: OutboxFiles,
    ledger: Ledger,
    destinations: list[int],
    *,
    segment_bytes: int = 1 << 24,
    limit: int = 100,
) -> int:
    """What the relay does when the bell rings; how many records it was."""
    taken = 0
    while batch := read_next(files, ledger.position, limit=limit):
        ledger.take_in(batch, destinations)
        taken += len(batch.entries)
        for number in segment_numbers(files):
            if is_full(files, number, segment_bytes):
                retire(files, number, ledger.position(number))
    return taken


def pending_at(
    ledger: Ledger, destination: int, after: int, limit: int, most_bytes: int = 1 << 30
) -> list[Pending]:
    """What waits for a destination behind an event, as its lane reads it."""
    return Waiting(ledger, destination).beyond(after, limit, most_bytes)[0]


def query(files: OutboxFiles, sql: str) -> object:
    """What the ledger says."""
    connection = apsw.Connection(str(files.ledger), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return connection.execute(sql).get
    finally:
        connection.close()
