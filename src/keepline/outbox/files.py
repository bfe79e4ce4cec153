"""Where the outbox keeps what, and how its files are opened and locked.

Locks are ``flock(2)``: they belong to an open file, end with the last process that has it open, and so never
outlive a crash. An outbox belongs on a local disk: network file systems neither keep appends of several
processes apart nor, all of them, these locks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path

from keepline.errors import OutboxLocked, OutboxUnavailable

_FIRST_PAUSE = 0.00005
_LONGEST_PAUSE = 0.005


@dataclass(frozen=True)
class OutboxFiles:
    """The names in an outbox's folder."""

    folder: Path

    @property
    def journal(self) -> Path:
        """The folder of the segments."""
        return self.folder / "journal"

    @property
    def archive(self) -> Path:
        """The folder of the segments that are in the ledger as a whole."""
        return self.folder / "archive"

    @property
    def damaged(self) -> Path:
        """The folder of what was set aside because it can't be read."""
        return self.folder / "damaged"

    @property
    def journal_lock(self) -> Path:
        """Held while a segment is created; tells which was the last one."""
        return self.folder / "journal.lock"

    @property
    def ledger(self) -> Path:
        """The SQLite file of the ledger."""
        return self.folder / "ledger.db"

    @property
    def suspect(self) -> Path:
        """There when a relay has met damage in the ledger, which the next one is to repair."""
        return self.folder / "ledger.suspect"

    @property
    def relay_lock(self) -> Path:
        """Held by the relay for as long as it lives; tells which process it is."""
        return self.folder / "relay.lock"

    @property
    def relay_log(self) -> Path:
        """What a detached relay logs."""
        return self.folder / "relay.log"

    @property
    def refused(self) -> Path:
        """How many appends were refused."""
        return self.folder / "refused"

    def create(self) -> None:
        """Make the folders, for their owner alone, where they aren't there.

        A folder that is there stays as it is: it may be one that others use too.

        Raises:
            OutboxUnavailable: they can't be made.
        """
        try:
            # Not mkdir(parents=True), which makes what is missing above with the mode of the umask.
            missing = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
            for path in (*reversed(missing), self.journal, self.archive):
                path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise unavailable("create the outbox", self.folder, error) from error


def unavailable(operation: str, path: Path, error: OSError) -> OutboxUnavailable:
    """The error for a failed system call on a file of the outbox, with its remedy.

    Args:
        operation: what was tried, in words.
        path: on what.
        error: what the system said.
    """
    remedies = {
        errno.ENOSPC: "free some space on that disk",
        errno.EDQUOT: "free some of that user's quota",
        errno.EFBIG: "raise this process's limit of file sizes (`ulimit -f`)",
        errno.EROFS: "name a folder on a writable disk in `outbox`",
        errno.EACCES: "let this user write there, or name another folder in `outbox`",
        errno.EPERM: "let this user write there, or name another folder in `outbox`",
        errno.ENOTDIR: "name a folder in `outbox`",
        errno.EEXIST: "name a folder in `outbox`",
        errno.EMFILE: "raise the limit of open files of this process",
        errno.ENFILE: "raise the limit of open files of this machine",
    }
    remedy = remedies.get(error.errno or 0, "see whether `outbox` names a healthy local disk")
    return OutboxUnavailable(f"can't {operation} {path}: {error.strerror or error}; {remedy}")


def open_private(path: Path, flags: int) -> int:
    """Open a file of the outbox for its owner alone, closed on exec.

    Args:
        path: the file.
        flags: of ``open(2)``.

    Raises:
        OSError: as ``open(2)`` says.
    """
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def sync(path: Path) -> None:
    """Bring what is in a file, or which names are in a folder, to the disk.

    Args:
        path: the file or folder.

    Raises:
        OSError: as ``open(2)`` or ``fsync(2)`` says.
    """
    fd = open_private(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Take a lock if it can be had at once.

    Args:
        fd: an open file.
        shared: take it beside other shared ones.
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(fd: int, path: Path, timeout: float, *, shared: bool = False) -> None:
    """Take a lock, waiting a bounded time.

    ``flock(2)`` knows no time-out, so a lock that isn't free is tried again after short pauses.

    Args:
        fd: an open file.
        path: its name, for the error.
        timeout: longest wait, seconds.
        shared: take it beside other shared ones.

    Raises:
        OutboxLocked: it wasn't free in time.
    """
    if try_lock(fd, shared=shared):
        return
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while not try_lock(fd, shared=shared):
        if time.monotonic() >= deadline:
            raise OutboxLocked(
                f"can't lock {path}: others held it for more than {timeout:.1f} s; "
                "see with `fuser` or `lslocks` which one, and end it"
            )
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def unlock(fd: int) -> None:
    """Give a lock back."""
    fcntl.flock(fd, fcntl.LOCK_UN)
