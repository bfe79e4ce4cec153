"""What of a spool is done: where the next call begins, and which calls workers have in hand.

One small file, read and written as a whole by one system call each, under its lock, which is held for some
microseconds and ends with whoever holds it. So whatever is killed at whatever instant, what is written
there is whole, and what was in hand is known: no call is lost, and none but those is run twice.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keepline.outbox.files import lock
from keepline.pool.place import open_own

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SIZE = 4096  # bytes, written at once; room for the calls in hand of some 80 workers
_TRIES = 20  # to read, without the lock, what is being written


@dataclass
class Taken:
    """A call that a worker has, or had when it died.

    Args:
        segment: where it stands.
        offset: where in there.
        worker: who has it; 0 for nobody: it is to be run again.
        since: when it was taken, by the monotonic clock.
        deaths: of workers that had it.
    """

    segment: int
    offset: int
    worker: int
    since: float
    deaths: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """Its place in the order of submitting."""
        return self.segment, self.offset


@dataclass
class Position:
    """What is done: all before the place of the next call, but those that are taken.

    Args:
        segment: where the next call stands, or will stand.
        offset: where in there.
        closed: whether no more calls may be taken.
        taken: the calls that aren't done.
    """

    segment: int = 1
    offset: int = 0
    closed: bool = False
    taken: list[Taken] = field(default_factory=list)

    @property
    def free(self) -> list[Taken]:
        """The calls that are to be run again, the oldest first."""
        return sorted((one for one in self.taken if not one.worker), key=lambda one: one.key)

    @property
    def oldest(self) -> int:
        """The first segment that is still needed."""
        return min([self.segment, *(one.segment for one in self.taken)])

    def of(self, worker: int) -> Taken | None:
        """The call that a worker has, if any."""
        return next((one for one in self.taken if one.worker == worker), None)

    def pack(self) -> bytes:
        """Write it down."""
        taken = [[one.segment, one.offset, one.worker, one.since, one.deaths] for one in self.taken]
        text = json.dumps([self.segment, self.offset, self.closed, taken]).encode()
        return b"%08x %b" % (zlib.crc32(text), text)

    @classmethod
    def unpack(cls, data: bytes) -> Position | None:
        """Read what was written down; None if it isn't whole.

        Args:
            data: the file.
        """
        text = data[9:].rstrip(b"\0 ")
        try:
            if int(data[:8], 16) != zlib.crc32(text):
                return None
            segment, offset, closed, taken = json.loads(text)
            return cls(segment, offset, closed, [Taken(*one) for one in taken])
        except (ValueError, TypeError):
            return None


class PositionFile:
    """The file.

    Args:
        path: of it.
        make: it is new.

    Raises:
        OSError: it can't be opened, or made.
    """

    def __init__(self, path: Path, *, make: bool = False) -> None:
        self._file = open_own(path, os.O_RDWR | (os.O_CREAT | os.O_EXCL if make else 0))
        if make:
            # All of it, so that there is room for what is written later, whatever becomes of the disk.
            self._write(Position())

    def read(self) -> Position:
        """Read it without the lock.

        Raises:
            OSError: it can't be read.
        """
        for _ in range(_TRIES):
            position = self._read()
            if position is not None:
                return position
        with self._locked(1.0):
            return self._read() or Position()  # damaged: what there is is run again

    @contextmanager
    def change(self, timeout: float) -> Iterator[Position]:
        """Hold the lock, and write down what is changed meanwhile.

        Args:
            timeout: longest wait for the lock, seconds.

        Raises:
            OutboxLocked: it wasn't free in time.
            OSError: the file can't be read or written.
        """
        with self._locked(timeout):
            position = self._read() or Position()
            before = position.pack()
            try:
                yield position
            finally:
                if position.pack() != before:
                    self._write(position)

    def close(self) -> None:
        """Close the file; once is enough."""
        self._file.close()

    @contextmanager
    def _locked(self, timeout: float) -> Iterator[None]:
        lock(self._file.fd, self._file.path, timeout)
        try:
            yield
        finally:
            self._file.unlock()

    def _read(self) -> Position | None:
        size = os.fstat(self._file.fd).st_size
        return Position.unpack(os.pread(self._file.fd, max(size, _SIZE), 0))

    def _write(self, position: Position) -> None:
        data = position.pack()
        data = data.ljust(-(-len(data) // _SIZE) * _SIZE)
        if os.pwrite(self._file.fd, data, 0) != len(data):
            raise OSError(errno.ENOSPC, "no space for what is done", str(self._file.path))
