"""Syncs: with ``durability: power``, what was appended is on the disk before the append returns.

One ``fdatasync(2)`` of a segment covers all that was written to it before it began. Who finds none under way
leads one. Who finds one waits for it, because it may have begun too early, and shares the next with all who
wait by then. However many threads append, there is one sync at a time, and nobody waits for more than two.

A failed sync says that something of what was written is lost, and says it once: the system takes the pages
for clean afterwards, and the next sync succeeds. So everyone whose event it may have been is told, the
segment is sealed, and no later sync of it is believed.

Nothing here is a lock that a signal handler could find held by the append which it interrupts.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from keepline.errors import OutboxUnavailable
from keepline.outbox.files import OutboxFiles, open_private, unavailable
from keepline.outbox.owned import OwnedFile
from keepline.outbox.segments import SEALED

_MOST_SEGMENTS = 8
_KEY = "running"


class Syncs:
    """The syncs of one outbox, for every thread of one process. In a forked child they begin anew.

    Args:
        files: the outbox.
    """

    def __init__(self, files: OutboxFiles) -> None:
        # Somebody may have made them just now, in a process that syncs nothing. What is above them was made
        # before them, and file systems keep that order.
        self._folders = (files.journal, files.folder, files.folder.parent)
        self._pid = os.getpid()
        self._segments: dict[str, _Segment] = {}

    def wait(self, file: OwnedFile, timeout: float) -> None:
        """Return when all that was written to a segment is on the disk, and the segment in its folder.

        Args:
            file: the segment, as the calling thread has it open; no other uses this.
            timeout: longest wait for syncs of others, seconds.

        Raises:
            OutboxUnavailable: it can't be brought there, or others' syncs take too long.
        """
        if self._pid != os.getpid():
            # A sync that another thread of the parent leads never ends here.
            self._pid, self._segments = os.getpid(), {}
        segments = self._segments
        segment = segments.get(file.path.name)
        if segment is None:
            segment = segments.setdefault(file.path.name, _Segment(self._folders))
            for old in list(segments)[:-_MOST_SEGMENTS]:
                segments.pop(old, None)
        segment.wait(file, timeout)


class _Segment:
    """What was synced of one segment. Syncs are numbered in the order in which they begin."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._folders = folders
        self._linked = False
        self._begun = 0
        self._done = 0
        self._failure: OSError | None = None
        # One at most. What is atomic is to find one or put one's own there.
        self._running: dict[str, _Sync] = {}

    def wait(self, file: OwnedFile, timeout: float) -> None:
        begun = self._begun
        deadline = time.monotonic() + timeout
        while self._done <= begun:
            if self._failure is not None:
                raise unavailable("sync", file.path, self._failure) from self._failure
            own = _Sync()
            try:
                found = self._running.setdefault(_KEY, own)
                if found is own:
                    self._lead(file)
            finally:
                self._end(own)
            if found is own:
                continue
            if found.leader == own.leader:
                # This is a signal handler in the middle of a sync that goes on only when it returns.
                self._sync(file)
                return
            if not found.wait(deadline):
                raise OutboxUnavailable(
                    f"can't sync {file.path}: the disk has taken more than {timeout:.1f} s for what others "
                    "wrote; see whether `outbox` names a healthy local disk, or raise `lock_timeout`"
                )

    def _lead(self, file: OwnedFile) -> None:
        number = self._begun = self._begun + 1
        self._sync(file)
        self._done = number

    def _end(self, sync: _Sync) -> None:
        if self._running.get(_KEY) is sync:
            del self._running[_KEY]
        sync.end()

    def _sync(self, file: OwnedFile) -> None:
        fd = file.fd
        try:
            if not file.is_meant_by(os.fstat(fd)):
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            _flush(fd)
            if not self._linked:
                for folder in self._folders:
                    _flush_folder(folder)
                self._linked = True
        except OSError as error:
            if error.errno is None:
                raise  # Not the system's, but raised by somebody's signal handler.
            if error.errno != errno.EBADF:
                self._failure = error
                with suppress(OSError):
                    os.fchmod(fd, SEALED)
            raise unavailable("sync", file.path, error) from error


class _Sync:
    """A sync that may be under way, led by the thread that made this."""

    def __init__(self) -> None:
        self.leader = threading.get_ident()
        self._ended = False
        self._waiting: list[threading.Lock] = []

    def wait(self, deadline: float) -> bool:
        """Wait for its end, however it ends; whether it came in time."""
        # A lock of one's own, which nobody takes but who waits.
        lock = threading.Lock()
        lock.acquire()
        self._waiting.append(lock)
        return self._ended or lock.acquire(timeout=max(deadline - time.monotonic(), 0.0)) or self._ended

    def end(self) -> None:
        """Let those go on who wait; once."""
        self._ended = True
        for lock in self._waiting:
            lock.release()


def _flush(fd: int) -> None:
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def _flush_folder(folder: Path) -> None:
    # Not files.sync(): a folder that can't be opened says nothing of what was written, one that can't be
    # synced does.
    try:
        fd = open_private(folder, os.O_RDONLY)
    except PermissionError:
        return  # Not this user's, so not made by this user either.
    except OSError as error:
        raise unavailable("open", folder, error) from error
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
