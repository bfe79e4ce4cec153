"""The relay's lock: one relay an outbox, and a way to see whether it lives."""

from __future__ import annotations

import json
import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass

from keepline import __version__
from keepline.config import Settings
from keepline.errors import OutboxLocked, RelayError
from keepline.outbox.files import OutboxFiles, lock, open_private, try_lock, unavailable, unlock

_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class RelayInfo:
    """What a running relay tells of itself.

    Args:
        pid: its process.
        version: of Keepline.
        started_at: s since 1970.
        salt: of the digest.
        digest: of its settings; see :meth:`keepline.config.Settings.digest`.
    """

    pid: int
    version: str
    started_at: float
    salt: str
    digest: str

    def serves(self, settings: Settings) -> bool:
        """Whether that relay is of this version and has these settings."""
        return self.version == __version__ and self.digest == settings.digest(self.salt)


class RelayLock:
    """The lock of an outbox's relay, held.

    It can be handed over to a child process with its file; the child has to :meth:`own` it.
    """

    def __init__(self, files: OutboxFiles, fd: int) -> None:
        self._files = files
        self.fd = fd

    @property
    def held(self) -> bool:
        """Whether it hasn't been given back."""
        return self.fd >= 0

    @classmethod
    def take(cls, files: OutboxFiles) -> RelayLock | None:
        """Take the lock if no relay has it.

        Args:
            files: the outbox.

        Raises:
            OutboxUnavailable: its file can't be opened.
        """
        files.create()
        try:
            fd = open_private(files.relay_lock, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise unavailable("open", files.relay_lock, error) from error
        if _lock_of_relay(fd, files):
            # What an earlier relay told of itself must not be taken for this one's word.
            os.ftruncate(fd, 0)
            return cls(files, fd)
        os.close(fd)
        return None

    def own(self) -> RelayLock | None:
        """Exchange a lock that was handed over for one that no other process has a copy of.

        A process forked from the one that handed it over could have a copy of its file, and would keep it
        locked beyond this process's end.

        Returns:
            the lock, or ``None`` when another relay was quicker.
        """
        unlock(self.fd)
        self.release()
        return RelayLock.take(self._files)

    def announce(self, settings: Settings) -> None:
        """Write down which process holds it."""
        salt = secrets.token_hex(8)
        info = {
            "pid": os.getpid(),
            "version": __version__,
            "started_at": time.time(),
            "salt": salt,
            "digest": settings.digest(salt),
        }
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, json.dumps(info).encode(), 0)

    def release(self) -> None:
        """Give it back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _lock_of_relay(fd: int, files: OutboxFiles) -> bool:
    if try_lock(fd):
        return True
    if not try_lock(fd, shared=True):
        return False
    # Somebody only looks, with a shared lock, and will be gone at once.
    with suppress(OutboxLocked):
        lock(fd, files.relay_lock, _LOOK_SECONDS)
        return True
    return False


def running(files: OutboxFiles) -> RelayInfo | None:
    """The relay that runs now, or ``None``.

    Args:
        files: the outbox.

    Raises:
        OutboxUnavailable: the lock's file can't be read.
        RelayError: a relay holds the lock and hasn't said yet who it is.
    """
    try:
        fd = open_private(files.relay_lock, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unavailable("open", files.relay_lock, error) from error
    try:
        if try_lock(fd, shared=True):
            return None
        text = os.pread(fd, 65536, 0)
    finally:
        os.close(fd)
    with suppress(ValueError, TypeError):
        return RelayInfo(**json.loads(text))
    raise RelayError(f"a relay is just starting in {files.folder}; try again")
