"""The journal's front: where producers append events.

An append is one ``write(2)`` of one record to a file opened with ``O_APPEND``. Local file systems of Linux
(ext4, XFS, Btrfs, tmpfs, and overlayfs on them) let one such write at a time into a file, from finding its
end to its last byte, so records never mix, and none begins before the one in front of it has ended. The
file's size grows behind bytes that are in place: a reader sees the beginning of what will be there, nothing
else. A write that ``kill -9`` or a full disk cut short leaves a torn record; readers skip it, and records
after it are whole.

Appends don't wait for one another: each holds only a shared lock, which tells the relay that the segment is
in use. It ends with the process, whatever ends that.
"""

from __future__ import annotations

import errno
import os
import time

from keepline.errors import EventError, OutboxError, OutboxUnavailable
from keepline.event import Event
from keepline.outbox import refusals
from keepline.outbox.files import OutboxFiles, lock, try_lock, unavailable
from keepline.outbox.owned import OwnedFile
from keepline.outbox.record import MAX_RECORD_BYTES, encode
from keepline.outbox.room import Room
from keepline.outbox.segments import open_newest, takes_appends
from keepline.outbox.syncs import Syncs

_REOPENS = 100
_MOST_SPARE = 4
_MOST_SPARE_SYNCED = 16
_LOOK_EVERY = 1.0


class Producer:
    """Appends events to one outbox, for every thread of one process.

    Threads don't wait for one another, and a signal handler may append in the middle of an append: whoever
    appends takes a handle that nobody uses, or makes one. There are as many as appends at once, so one where
    a single thread appends, and a few are kept. In a forked child they open the segment anew.

    Args:
        files: the outbox.
        segment_bytes: size at which a segment is full; at most an eighth of ``max_bytes``.
        lock_timeout: longest wait for locks in one append, seconds, and as much for others' syncs.
        max_bytes: what the outbox may take up (:mod:`keepline.outbox.room`); ``None`` for no bound.
        max_event_bytes: size of the largest event, as JSON.
        synced: whether an event is on the disk before its append returns (:mod:`keepline.outbox.syncs`).
    """

    def __init__(
        self,
        files: OutboxFiles,
        *,
        segment_bytes: int,
        lock_timeout: float,
        max_bytes: int | None = None,
        max_event_bytes: int = MAX_RECORD_BYTES,
        synced: bool = False,
    ) -> None:
        self.files = files
        self._room = Room(files, max_bytes=max_bytes, segment_bytes=segment_bytes)
        self._syncs = Syncs(files) if synced else None
        self._lock_timeout = lock_timeout
        self._max_event_bytes = max_event_bytes
        self._spare: list[_Handle] = []
        # Who waits for a sync keeps its handle.
        self._most_spare = _MOST_SPARE_SYNCED if synced else _MOST_SPARE

    def append(self, event: Event) -> bool:
        """Put an event behind all that was appended before; it is there when this returns.

        When this raises, no reader takes anything of it for an event, and it is counted as refused where the
        outbox can still be written. Only an exception that a signal handler raises in the middle of it, and a
        sync that fails, leave open which of the two happened.

        Args:
            event: what to append.

        Returns:
            whether the segment had to be opened. A relay that ends deletes the segments first, so only then
            can a relay have ended by itself since the append before.

        Raises:
            EventError: the event is too large.
            OutboxUnavailable: it can't be written or synced, or the outbox is full; says why.
            OutboxLocked: a lock was held for too long.
        """
        try:
            if len(event.body) > self._max_event_bytes:
                raise EventError(
                    f"an event of {len(event.body)} bytes is larger than `max_event_bytes`, which is "
                    f"{self._max_event_bytes}; look for a facet that grew out of hand, or raise the setting"
                )
            return self.put(encode(event, time.time_ns()))
        except (EventError, OutboxError):
            refusals.count(self.files)
            raise

    def put(self, record: bytes) -> bool:
        """As :meth:`append`, of a record; one that can't be written isn't counted.

        Args:
            record: what to append.
        """
        try:
            handle = self._spare.pop()
        except IndexError:
            handle = _Handle(self.files, self._room)
        try:
            opened = handle.append(record, self._lock_timeout)
            if self._syncs is not None:
                handle.sync(self._syncs, self._lock_timeout)
            return opened
        finally:
            if len(self._spare) < self._most_spare:
                self._spare.append(handle)
            else:
                handle.close()

    def close(self) -> None:
        """Close the segment; an append afterwards opens it again."""
        while self._spare:
            self._spare.pop().close()


class _Handle:
    """The segment that takes appends, as one append at a time uses it."""

    def __init__(self, files: OutboxFiles, room: Room) -> None:
        self._files = files
        self._room = room
        self._segment_bytes = room.segment_bytes
        self._file: OwnedFile | None = None
        self._look_at = 0.0

    def append(self, record: bytes, timeout: float) -> bool:
        now = time.monotonic()
        file = self._file
        if file is not None and file.fd >= 0 and self._write(file, record, now, timeout):
            return False
        for _ in range(_REOPENS):
            self.close()
            self._room.recall()
            left = max(now + timeout - time.monotonic(), 0.0)
            file = self._file = open_newest(self._files, self._room, left)
            refusals.prepare(self._files)
            if self._write(file, record, now, timeout):
                return True
        raise OutboxUnavailable(
            f"can't append to {self._files.journal}: its newest segment was full or gone {_REOPENS} times "
            "in a row; raise `segment_bytes`"
        )

    def sync(self, syncs: Syncs, timeout: float) -> None:
        """Bring what was appended last to the disk."""
        if self._file is not None:
            syncs.wait(self._file, timeout)

    def _write(self, file: OwnedFile, record: bytes, now: float, timeout: float) -> bool:
        """Append to the segment, unless it takes no more."""
        fd = file.fd
        try:
            if not try_lock(fd, shared=True):
                lock(fd, file.path, max(now + timeout - time.monotonic(), 0.0), shared=True)
            state = os.fstat(fd)
            if not file.is_meant_by(state) or not takes_appends(state, self._segment_bytes):
                return False
            if now >= self._look_at:
                # Somebody may have moved the outbox away, where no relay looks. To see that at once would
                # make each append take a third longer.
                if not file.is_at_its_path():
                    return False
                self._look_at = now + _LOOK_EVERY
            written = os.write(fd, record)
        except OSError as error:
            if error.errno is None:
                raise  # Not the system's, but raised by somebody's signal handler.
            if error.errno == errno.EBADF:
                return False  # Somebody has closed it behind our back.
            raise unavailable("append to", file.path, error) from error
        finally:
            file.unlock()
        if written < len(record):
            raise OutboxUnavailable(
                f"can't append to {file.path}: the disk took {written} of {len(record)} bytes; "
                "free some space"
            )
        return True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
