"""The bell: how an append wakes the relay. The relay watches the journal's folder; producers do nothing."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from keepline.errors import RelayError


class Bell(Protocol):
    """Becomes readable when a file of a folder is written, created or deleted."""

    def fileno(self) -> int:
        """What to wait on."""

    def silence(self) -> bool:
        """Take note of what rang; from here on, further changes ring again.

        Returns:
            whether all that is needed is still there.
        """

    def close(self) -> None:
        """Stop watching."""


def hang(folder: Path, *, needed: Sequence[Path] = ()) -> Bell:
    """Watch a folder.

    Args:
        folder: the journal's folder, or the outbox's.
        needed: files and folders without which there is no point in going on. The bell rings when one of
            them is deleted, moved or replaced, which a look at what is open would not tell.

    Raises:
        RelayError: the system can't watch it; names the limit to raise.
    """
    try:
        return InotifyBell(folder, needed) if sys.platform == "linux" else KqueueBell(folder, needed)
    except OSError as error:
        raise RelayError(
            f"can't watch {folder}: {error.strerror or error}; raise the limits of inotify "
            "(fs.inotify.max_user_watches, fs.inotify.max_user_instances) or of open files"
        ) from error


class _Needed:
    """Knows what was where, and whether it still is."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.folders = {path.parent for path in paths}
        self._known = {path: self._identity(path) for path in paths}

    def there(self) -> bool:
        """Whether every path still leads to what it led to at first."""
        return all(self._identity(path) == identity for path, identity in self._known.items())

    @staticmethod
    def _identity(path: Path) -> tuple[int, int] | None:
        try:
            state = path.stat()
        except OSError:
            return None
        return state.st_dev, state.st_ino


class InotifyBell:
    """The bell on Linux; see inotify(7)."""

    def __init__(self, folder: Path, needed: Sequence[Path]) -> None:
        from inotify_simple import INotify, flags

        self._needed = _Needed(needed)
        # A folder that is deleted doesn't say so itself while a process has a file of it open; the one that
        # it stood in does.
        going = flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO | flags.DELETE_SELF | flags.MOVE_SELF
        self._going = going | flags.IGNORED | flags.Q_OVERFLOW
        self._inotify = INotify(nonblocking=True)
        try:
            for parent in self._needed.folders:
                self._inotify.add_watch(parent, going)
            self._inotify.add_watch(folder, going | flags.MODIFY | flags.CREATE)
        except OSError:
            self._inotify.close()
            raise

    def fileno(self) -> int:
        """What to wait on."""
        return int(self._inotify.fileno())

    def silence(self) -> bool:
        """Take note of what rang."""
        gone = any(event.mask & self._going for event in self._inotify.read(timeout=0))
        return not gone or self._needed.there()

    def close(self) -> None:
        """Stop watching."""
        self._inotify.close()


class KqueueBell:
    """The bell on macOS and the BSDs; see kqueue(2).

    A kqueue tells of a folder only that its names have changed, so its files are watched for their growth.
    """

    def __init__(self, folder: Path, needed: Sequence[Path]) -> None:
        self._folder = folder
        self._needed = _Needed(needed)
        self._queue = select.kqueue()  # type: ignore[attr-defined,unused-ignore]
        self._files: dict[Path, int] = {}
        self._fds = [os.open(each, os.O_RDONLY) for each in {folder, *self._needed.folders}]
        for fd in self._fds:
            self._watch(fd)
        self._follow()

    def _watch(self, fd: int) -> None:
        change = select.kevent(  # type: ignore[attr-defined,unused-ignore]
            fd,
            filter=select.KQ_FILTER_VNODE,  # type: ignore[attr-defined,unused-ignore]
            flags=select.KQ_EV_ADD | select.KQ_EV_CLEAR,  # type: ignore[attr-defined,unused-ignore]
            fflags=select.KQ_NOTE_WRITE  # type: ignore[attr-defined,unused-ignore]
            | select.KQ_NOTE_EXTEND  # type: ignore[attr-defined,unused-ignore]
            | select.KQ_NOTE_DELETE,  # type: ignore[attr-defined,unused-ignore]
        )
        self._queue.control([change], 0, 0)

    def _follow(self) -> None:
        with suppress(FileNotFoundError):
            there = set(self._folder.iterdir())
            for path in there - set(self._files):
                with suppress(FileNotFoundError):
                    self._files[path] = os.open(path, os.O_RDONLY)
                    self._watch(self._files[path])
            for path in set(self._files) - there:
                os.close(self._files.pop(path))

    def fileno(self) -> int:
        """What to wait on."""
        return int(self._queue.fileno())

    def silence(self) -> bool:
        """Take note of what rang."""
        self._queue.control(None, 64, 0)
        self._follow()
        return self._needed.there()

    def close(self) -> None:
        """Stop watching."""
        for fd in (*self._files.values(), *self._fds):
            os.close(fd)
        self._queue.close()
