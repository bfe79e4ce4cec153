"""Files that stay with the process that opened them, and locks on them that no fork can strand.

A forked child has a copy of every open file, and what ``flock(2)`` locked stays locked until it is unlocked
or the last copy is closed. A child that lives on could so keep for ever what its killed parent had locked. So
a child closes its copies of the files opened here before it does anything else, which leaves the parent's
locks alone, and no fork happens while one is being opened or closed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keepline.errors import OutboxUnavailable
from keepline.outbox.files import lock, open_private, unavailable, unlock

# Reentrant, because a signal handler that appends or forks can interrupt its holder. Held for the length of
# an open(2) or close(2), never while a lock is waited for.
_gate = threading.RLock()
_open_files: set[OwnedFile] = set()


class OwnedFile:
    """An open file of the outbox that a forked child doesn't keep.

    ``fd`` is -1 when it has been closed, be it because this process was forked from the one that opened it.

    Args:
        path: the file.
        flags: of ``open(2)``.

    Raises:
        OSError: as ``open(2)`` says.
    """

    __slots__ = ("_device", "_inode", "fd", "path")

    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        with _gate:
            self.fd = open_private(path, flags)
            state = os.fstat(self.fd)
            self._device, self._inode = state.st_dev, state.st_ino
            _open_files.add(self)

    def is_meant_by(self, state: os.stat_result) -> bool:
        """Whether this is what ``fstat(2)`` or ``stat(2)`` has described.

        Somebody who closes every file of a process, as daemons do, lets the number of this one come to mean
        another; whoever writes has to look first.

        Args:
            state: what the system says.
        """
        return state.st_ino == self._inode and state.st_dev == self._device

    def is_at_its_path(self) -> bool:
        """Whether its path still leads to it."""
        try:
            return self.is_meant_by(os.stat(self.path))  # noqa: PTH116 - quicker, and appends wait for it
        except OSError:
            return False

    def unlock(self) -> None:
        """Give its lock back, if there is one."""
        try:
            unlock(self.fd)
        except (OSError, ValueError):
            return  # Closed behind our back, or in a child: what is closed here holds no lock.

    def close(self) -> None:
        """Give its lock back and close it; once is enough."""
        # By word too: a process that is just being started has a copy, until it becomes another program.
        self.unlock()
        with _gate:
            _open_files.discard(self)
            self._close()

    def _close(self) -> None:
        fd, self.fd = self.fd, -1
        try:
            if fd >= 0 and self.is_meant_by(os.fstat(fd)):
                os.close(fd)
        except OSError:
            pass  # Closed behind our back: nothing of ours is left to close.


def _begin_child() -> None:
    for file in _open_files:
        file._close()
    _open_files.clear()
    _gate.release()


os.register_at_fork(before=_gate.acquire, after_in_parent=_gate.release, after_in_child=_begin_child)


@contextmanager
def held(path: Path, timeout: float) -> Iterator[OwnedFile]:
    """Hold the exclusive lock of a file, which is made where it isn't there.

    Args:
        path: the file.
        timeout: longest wait for the lock, seconds.

    Raises:
        OutboxUnavailable: it can't be opened or locked.
        OutboxLocked: another process held it for too long.
    """
    deadline = time.monotonic() + timeout
    while True:
        file = _open(path)
        try:
            _lock(file, max(deadline - time.monotonic(), 0.0))
            # Whoever deleted it while we waited has made it possible to hold another lock of its name.
            if file.is_at_its_path():
                yield file
                return
            if time.monotonic() >= deadline:
                raise OutboxUnavailable(
                    f"can't lock {path}: it is deleted again and again; leave the outbox's files alone"
                )
        finally:
            file.close()


def _open(path: Path) -> OwnedFile:
    try:
        return OwnedFile(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise unavailable("open", path, error) from error


def _lock(file: OwnedFile, timeout: float) -> None:
    try:
        lock(file.fd, file.path, timeout)
    except OSError as error:
        raise unavailable("lock", file.path, error) from error
