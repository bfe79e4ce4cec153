"""The bell: how an append wakes the relay. The relay watches the journal's folder; producers do nothing."""

from __future__ import annotations

import os
import select
import sys
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
            whether the folder is still there.
        """

    def close(self) -> None:
        """Stop watching."""


def hang(folder: Path) -> Bell:
    """Watch a folder.

    Args:
        folder: the journal's folder, or the outbox's.

    Raises:
        RelayError: the system can't watch it; names the limit to raise.
    """
    try:
        return InotifyBell(folder) if sys.platform == "linux" else KqueueBell(folder)
    except OSError as error:
        raise RelayError(
            f"can't watch {folder}: {error.strerror or error}; raise the limits of inotify "
            "(fs.inotify.max_user_watches, fs.inotify.max_user_instances) or of open files"
        ) from error


class InotifyBell:
    """The bell on Linux; see inotify(7)."""

    def __init__(self, folder: Path) -> None:
        from inotify_simple import INotify, flags

        self._gone = flags.IGNORED | flags.DELETE_SELF | flags.MOVE_SELF
        self._inotify = INotify(nonblocking=True)
        try:
            self._inotify.add_watch(
                folder,
                flags.MODIFY | flags.CREATE | flags.DELETE | flags.DELETE_SELF | flags.MOVE_SELF,
            )
        except OSError:
            self._inotify.close()
            raise

    def fileno(self) -> int:
        """What to wait on."""
        return int(self._inotify.fileno())

    def silence(self) -> bool:
        """Take note of what rang."""
        return not any(event.mask & self._gone for event in self._inotify.read(timeout=0))

    def close(self) -> None:
        """Stop watching."""
        self._inotify.close()


class KqueueBell:
    """The bell on macOS and the BSDs; see kqueue(2).

    A kqueue tells of a folder only that its names have changed, so the newest file is watched for its growth.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._queue = select.kqueue()  # type: ignore[attr-defined,unused-ignore]
        self._files: dict[Path, int] = {}
        self._fd = os.open(folder, os.O_RDONLY)
        self._watch(self._fd)
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
        try:
            self._follow()
        except FileNotFoundError:
            return False
        return True

    def close(self) -> None:
        """Stop watching."""
        for fd in (*self._files.values(), self._fd):
            os.close(fd)
        self._queue.close()
