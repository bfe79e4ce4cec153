"""The relay's lock: one relay an outbox, and a way to see whether it lives."""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from keepline import __version__
from keepline.config import Settings
from keepline.errors import OutboxLocked, RelayError
from keepline.outbox.files import OutboxFiles, lock, try_lock, unavailable, unlock
from keepline.outbox.owned import OwnedFile

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_INFO_BYTES = 1024


@dataclass(frozen=True)
class RelayInfo:
    """What a running relay tells of itself.

    Args:
        pid: its process.
        place: where that number means that process; see :func:`this_place`.
        version: of Keepline.
        started_at: s since 1970.
        salt: of the digest.
        digest: of its settings; see :meth:`keepline.config.Settings.digest`.
        inline: whether it is a thread of a process that has other work, and ends with that.
        foreground: whether somebody runs it as ``keepline relay``, and so has to restart it.
    """

    pid: int
    place: str
    version: str
    started_at: float
    salt: str
    digest: str
    inline: bool = False
    foreground: bool = False

    def serves(self, settings: Settings) -> bool:
        """Whether that relay is of this version and has these settings."""
        return self.version == __version__ and self.digest == settings.digest(self.salt)


_TOLD = frozenset(field.name for field in fields(RelayInfo))


def this_place() -> str:
    """A name for where a process's number means one process: a host, and a container on it."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = "pid"
    return f"{os.uname().nodename} {namespace}"


class _LockFile(OwnedFile):
    """The file of a lock that can be left to another process, which has a copy of it."""

    __slots__ = ()

    def leave(self) -> None:
        """Close it without giving the lock back, which would take it from the other process too."""
        self._close()
        self.close()


class RelayLock:
    """The lock of an outbox's relay, held; made by :meth:`take` and :meth:`take_over`.

    A child forked from its holder doesn't have it.
    """

    def __init__(self, files: OutboxFiles, file: _LockFile) -> None:
        self._files = files
        self._file = file

    @property
    def fd(self) -> int:
        """Its file, to hand it to a process that is being started."""
        return self._file.fd

    @property
    def held(self) -> bool:
        """Whether it hasn't been given back."""
        return self._file.fd >= 0

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
            file = _LockFile(files.relay_lock, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise unavailable("open", files.relay_lock, error) from error
        if _lock_of_relay(file, files):
            taken = cls(files, file)
            # What an earlier relay told of itself must not be taken for this one's word.
            taken._tell("")
            return taken
        file.close()
        return None

    @classmethod
    def take_over(cls, files: OutboxFiles, fd: int) -> RelayLock | None:
        """Exchange a lock that was handed over for one that no other process has a copy of.

        The process that handed it over, and whatever was forked from it meanwhile, may have a copy of its
        file, and would keep it locked beyond this process's end.

        Args:
            files: the outbox.
            fd: the file that was handed over.

        Returns:
            the lock, or ``None`` when another relay was quicker.

        Raises:
            OutboxUnavailable: its file can't be opened.
        """
        unlock(fd)
        os.close(fd)
        return cls.take(files)

    def announce(self, settings: Settings, *, inline: bool = False, foreground: bool = False) -> None:
        """Write down which process holds it.

        Args:
            settings: of the relay.
            inline: whether the relay is a thread of a process that has other work.
            foreground: whether somebody runs it as ``keepline relay``.
        """
        salt = secrets.token_hex(8)
        digest = settings.digest(salt)
        info = RelayInfo(
            os.getpid(), this_place(), __version__, time.time(), salt, digest, inline, foreground
        )
        self._tell(json.dumps(asdict(info)))

    def _tell(self, text: str) -> None:
        try:
            # Always as long, and in place: once it is there, it can be written on a full disk too.
            os.pwrite(self._file.fd, text.encode().ljust(_INFO_BYTES), 0)
        except OSError as error:
            log.warning("%s", unavailable("write", self._files.relay_lock, error))

    def hand_over(self) -> None:
        """Let go of it: the process that was started with its file holds it from here on."""
        self._file.leave()

    def release(self) -> None:
        """Give it back; once is enough."""
        self._file.close()


def _lock_of_relay(file: OwnedFile, files: OutboxFiles) -> bool:
    if try_lock(file.fd):
        return True
    if not try_lock(file.fd, shared=True):
        return False
    # Somebody only looks, with a shared lock, and will be gone at once.
    with suppress(OutboxLocked):
        lock(file.fd, files.relay_lock, _LOOK_SECONDS)
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
        file = OwnedFile(files.relay_lock, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unavailable("open", files.relay_lock, error) from error
    try:
        if try_lock(file.fd, shared=True):
            return None
        text = os.pread(file.fd, _INFO_BYTES, 0)
    finally:
        file.close()
    with suppress(ValueError, TypeError, AttributeError):
        told = json.loads(text).items()
        # Another version's relay may tell more.
        return RelayInfo(**{name: value for name, value in told if name in _TOLD})
    raise RelayError(f"a relay is just starting in {files.folder}; try again")
