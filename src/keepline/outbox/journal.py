"""The journal's front: where producers append events.

An append is one ``write(2)`` of one record to a file opened with ``O_APPEND``, which the kernel puts whole
behind what is there (POSIX.1-2017, ``write``). Appends don't wait for one another: each holds only a shared
lock, which tells the relay that the segment is in use. A write that a ``kill -9`` or a full disk cut short
leaves a torn record; readers skip it, and records after it are whole.
"""

from __future__ import annotations

import os
import threading
import time

from keepline.errors import EventError, OutboxError, OutboxUnavailable
from keepline.event import Event
from keepline.outbox import refusals
from keepline.outbox.files import OutboxFiles, lock, unavailable, unlock
from keepline.outbox.record import MAX_RECORD_BYTES, encode
from keepline.outbox.segments import open_newest, segment_path

_REOPENS = 8


class Producer:
    """Appends events to one outbox, for every thread of one process.

    In a forked child the first append opens the segment anew: it would otherwise share its locks with the
    parent.

    Args:
        files: the outbox.
        segment_bytes: size at which a segment is full.
        lock_timeout: longest wait for a lock, seconds.
    """

    def __init__(self, files: OutboxFiles, *, segment_bytes: int, lock_timeout: float) -> None:
        self.files = files
        self._segment_bytes = segment_bytes
        self._lock_timeout = lock_timeout
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._fd = -1
        self._path = self.files.journal

    def append(self, event: Event) -> bool:
        """Put an event behind all that was appended before; it is there when this returns.

        Args:
            event: what to append.

        Returns:
            whether the segment had to be opened. A relay that ends deletes the segment first, so only then
            can a relay have ended by itself since the append before.

        Raises:
            EventError: the event is too large for a record.
            OutboxUnavailable: it can't be written; says why.
            OutboxLocked: a lock was held for too long.
        """
        if self._pid != os.getpid():
            self.close()
            self._begin()
        record = encode(event, time.time_ns())
        if len(record) > MAX_RECORD_BYTES:
            raise EventError(f"an event of {len(event.body)} bytes is too large for the outbox")
        try:
            with self._mutex:
                return self._append(record)
        except OutboxError:
            refusals.count(self.files)
            raise

    def _append(self, record: bytes) -> bool:
        opened = False
        for _ in range(_REOPENS):
            if self._fd < 0:
                self._open()
                opened = True
            lock(self._fd, self._path, self._lock_timeout, shared=True)
            try:
                state = os.fstat(self._fd)
                if state.st_nlink and state.st_size < self._segment_bytes:
                    self._write(record)
                    return opened
            finally:
                unlock(self._fd)
            self.close()
        raise OutboxUnavailable(
            f"can't append to {self.files.journal}: its newest segment was full or gone {_REOPENS} times "
            "in a row; raise `segment_bytes`"
        )

    def _open(self) -> None:
        number, self._fd = open_newest(self.files, self._segment_bytes, self._lock_timeout)
        refusals.prepare(self.files)
        self._path = segment_path(self.files, number)

    def _write(self, record: bytes) -> None:
        try:
            written = os.write(self._fd, record)
        except OSError as error:
            raise unavailable("append to", self._path, error) from error
        if written < len(record):
            raise OutboxUnavailable(
                f"can't append to {self._path}: the disk took {written} of {len(record)} bytes; "
                "free some space"
            )

    def close(self) -> None:
        """Close the segment; an append afterwards opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
