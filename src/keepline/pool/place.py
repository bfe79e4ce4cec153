"""Where a spool is: its folders, whose they are, and the names in them.

::

    ROOT/                    of all spools, for example OUTBOX/spool
        OWNER/               the spool of one process, while that lives or something is left in it
            lock             held by the owner
            state            what of it is done (position.py)
            00000001.calls   what was submitted, in the order of submitting
        aside/               calls that were set aside (aside.py)

Calls that the disk has no room for are written to a second folder of the same name, in memory where the
system has files there. Nothing is read from a folder that isn't this user's own: what is pickled there is
run.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from keepline.outbox.files import open_private
from keepline.outbox.owned import OwnedFile

ASIDE = "aside"
NEW = ".new-"  # begins the name of a folder that is being made

_MEMORY = Path("/dev/shm")  # noqa: S108 - what is made there is private, and looked at before it is used
_SUFFIX = ".calls"


@dataclass(frozen=True)
class Place:
    """The folders of one spool.

    Args:
        root: of all spools.
        home: has the lock and the state.
        spare: has the calls that home had no room for; it may not exist.
    """

    root: Path
    home: Path
    spare: Path | None

    @property
    def lock(self) -> Path:
        """Held by the owner for as long as it lives."""
        return self.home / "lock"

    @property
    def state(self) -> Path:
        """What is done."""
        return self.home / "state"

    @property
    def folders(self) -> list[Path]:
        """Where segments are."""
        return [self.home] if self.spare is None else [self.home, self.spare]

    def segments(self) -> dict[int, Path]:
        """The segments that there are, by their number, which is their order."""
        found = {}
        for folder in self.folders:
            with contextlib.suppress(OSError):
                for name in os.listdir(folder):
                    if name.endswith(_SUFFIX) and name[: -len(_SUFFIX)].isdigit():
                        found[int(name[: -len(_SUFFIX)])] = folder / name
        return dict(sorted(found.items()))

    def find(self, number: int) -> Path | None:
        """The path of a segment, if there is one of this number."""
        for folder in self.folders:
            path = segment_path(folder, number)
            if path.exists():
                return path
        return None

    def remove(self) -> None:
        """Remove everything, as far as that can be done."""
        # The state and the lock last: what is left of a removal that was cut off can be removed by the next.
        for path in self.segments().values():
            path.unlink(missing_ok=True)
        for path in (self.state, self.lock):
            path.unlink(missing_ok=True)
        for folder in reversed(self.folders):
            with contextlib.suppress(OSError):
                folder.rmdir()


def segment_path(folder: Path, number: int) -> Path:
    """Name a segment.

    Args:
        folder: of the spool.
        number: of the segment.
    """
    return folder / f"{number:08d}{_SUFFIX}"


def spare_root(root: Path) -> Path:
    """Where the spare folders of the spools of a root are.

    Args:
        root: of the spools.
    """
    base = _MEMORY if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    # One folder, since in one that all may write to, nobody but its owner can put another in its place.
    return base / f"keepline-{os.geteuid()}-{zlib.crc32(os.fsencode(root)):08x}"


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone.

    Args:
        folder: which.

    Raises:
        OSError: it can't be made, or is another user's.
    """
    # Not mkdir(parents=True), which makes what is missing above with the mode of the umask.
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    if not is_own(folder):
        raise PermissionError(f"{folder} is not this user's own, or others may write there")


def is_own(path: Path) -> bool:
    """Whether a file or folder is this user's, no link, and not for all others to write.

    Args:
        path: which.
    """
    try:
        state = path.lstat()
    except OSError:
        return False
    kind = stat.S_ISDIR(state.st_mode) or stat.S_ISREG(state.st_mode)
    return kind and state.st_uid == os.geteuid() and not state.st_mode & stat.S_IWOTH


def open_own(path: Path, flags: int) -> OwnedFile:
    """Open a file that is this user's own; a forked child doesn't keep it.

    Args:
        path: the file.
        flags: of ``open(2)``.

    Raises:
        OSError: it can't be opened, or is another user's.
    """
    file = OwnedFile(path, flags | os.O_NOFOLLOW)
    if not _is_own_file(file.fd):
        file.close()
        raise PermissionError(f"{path} is not this user's own file")
    return file


def open_to_read(path: Path) -> int:
    """Open a file that is this user's own, to read it.

    Takes no lock, by which a thread that is in the middle of submitting could hold up another.

    Args:
        path: the file.

    Raises:
        OSError: it can't be opened, or is another user's.
    """
    fd = open_private(path, os.O_RDONLY | os.O_NOFOLLOW)
    if not _is_own_file(fd):
        os.close(fd)
        raise PermissionError(f"{path} is not this user's own file")
    return fd


def _is_own_file(fd: int) -> bool:
    state = os.fstat(fd)
    return state.st_uid == os.geteuid() and stat.S_ISREG(state.st_mode)
