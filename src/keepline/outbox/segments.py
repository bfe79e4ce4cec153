"""The journal's segments as files: their names, their order, and which one takes appends.

A segment is appended to until it has reached its size; then it is sealed, and the next one begins. Its number
is the time at which it was created (ns since 1970), made greater than every number before it, so that no
number is used twice, whatever the clock does. At any time at most one segment takes appends:

- Segments are created under the journal's lock, and only when the newest takes no more: it is sealed first.
- Sealed means read-only for its owner too. So it says so itself, to processes with another idea of its size
  as well, and in the same ``fstat(2)`` that an append makes anyway.
- An append holds a shared lock on its segment, and looks under it whether it is there, unsealed and not full.
- A segment leaves the journal under an exclusive lock on it, and only by the relay, which archives it.

An append that has looked and not yet written can so write to a segment that was sealed since, while others
write to the next one. Readers mind it (:func:`keepline.outbox.reader.read_next`).

No segment takes appends of two boots of the machine. After a power cut it can be shorter than the ledger's
mark in it, and what came then would stand before the mark, where nobody reads.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from keepline.outbox.files import OutboxFiles, unavailable
from keepline.outbox.owned import OwnedFile, held
from keepline.outbox.room import Room

SUFFIX = ".seg"
_DIGITS = 20
SEALED = 0o400
"""The mode of a segment that takes no more appends."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def segment_numbers(files: OutboxFiles) -> list[int]:
    """The numbers of the segments there are, oldest first.

    Args:
        files: the outbox.

    Raises:
        OutboxUnavailable: the folder can't be read; a missing one is an empty journal.
    """
    return numbers_in(files.journal)


def numbers_in(folder: Path) -> list[int]:
    """The numbers of the segments in a folder, oldest first.

    Args:
        folder: of segments.

    Raises:
        OutboxUnavailable: it can't be read; a missing one has none.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unavailable("read the folder", folder, error) from error
    return sorted(int(name[:_DIGITS]) for name in names if _is_segment(name))


def segment_name(number: int) -> str:
    """The name of a segment's file.

    Args:
        number: the segment.
    """
    return f"{number:0{_DIGITS}d}{SUFFIX}"


def segment_path(files: OutboxFiles, number: int) -> Path:
    """The file of a segment.

    Args:
        files: the outbox.
        number: the segment.
    """
    return files.journal / segment_name(number)


def takes_appends(state: os.stat_result, segment_bytes: int) -> bool:
    """Whether a segment is there, unsealed and not full.

    Args:
        state: of its file.
        segment_bytes: size at which a segment is full.
    """
    return bool(state.st_nlink and state.st_mode & stat.S_IWUSR and state.st_size < segment_bytes)


def open_newest(files: OutboxFiles, room: Room, timeout: float) -> OwnedFile:
    """Open the segment that takes appends, creating it where there is none and room for one.

    Args:
        files: the outbox.
        room: tells the size at which a segment is full, and whether another one fits.
        timeout: longest wait for the journal's lock, seconds.

    Returns:
        its file, open to append to.

    Raises:
        OutboxUnavailable: it can't be opened or created, or the outbox is full.
        OutboxLocked: another process held the journal's lock for too long.
    """
    # Without the lock where that suffices: who appends to a segment looks at it again, under its own lock.
    found = _open_if_it_takes_appends(files, segment_numbers(files), room.segment_bytes)
    if found is not None:
        return found
    files.create()
    with held(files.journal_lock, timeout) as guard:
        numbers = segment_numbers(files)
        found = _open_if_it_takes_appends(files, numbers, room.segment_bytes)
        if found is not None:
            return found
        if numbers:
            # Before a refusal too: then the relay can clear it away, which makes room.
            _seal(segment_path(files, numbers[-1]))
        room.require()
        # The archive's are only in the way where the lock's file, which tells of the last one, was lost.
        last = _recall(files)[0] or max(numbers_in(files.archive), default=0)
        return _create(files, guard, max([last, *numbers[-1:]]))


def _open_if_it_takes_appends(files: OutboxFiles, numbers: list[int], segment_bytes: int) -> OwnedFile | None:
    if not numbers or _recall(files)[1] != _boot_id():
        return None
    path = segment_path(files, numbers[-1])
    try:
        file = OwnedFile(path, os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:
        return None
    except OSError as error:
        if isinstance(error, PermissionError) and _is_sealed(path):
            return None
        raise unavailable("open", path, error) from error
    if takes_appends(os.fstat(file.fd), segment_bytes):
        return file
    file.close()
    return None


def _is_sealed(path: Path) -> bool:
    try:
        return not path.stat().st_mode & stat.S_IWUSR
    except OSError:
        return False


def _seal(path: Path) -> None:
    try:
        with suppress(FileNotFoundError):
            path.chmod(SEALED)
    except OSError as error:
        raise unavailable("seal", path, error) from error


def _create(files: OutboxFiles, guard: OwnedFile, newest: int) -> OwnedFile:
    number = max(time.time_ns(), newest + 1)
    path = segment_path(files, number)
    try:
        os.pwrite(guard.fd, f"{number:0{_DIGITS}d} {_boot_id()}\n".encode(), 0)
        return OwnedFile(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
    except OSError as error:
        raise unavailable("create", path, error) from error


def _recall(files: OutboxFiles) -> tuple[int, str]:
    """The number of the segment that was created last, and the boot of the machine in which it was."""
    try:
        text = files.journal_lock.read_bytes().decode("ascii", "replace")
    except FileNotFoundError:
        text = ""
    except OSError as error:
        raise unavailable("read", files.journal_lock, error) from error
    number, _, boot = text.partition("\n")[0].partition(" ")
    return (int(number), boot) if _is_segment(number + SUFFIX) else (0, "")


@cache
def _boot_id() -> str:
    """A name for this boot of the machine; where the system has none, all boots are one."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "-"


def _is_segment(name: str) -> bool:
    digits = name[:_DIGITS]
    # What is greater than any time is none of ours, and SQLite couldn't hold it.
    return name[_DIGITS:] == SUFFIX and digits.isascii() and digits.isdecimal() and int(digits) < 2**63 - 1
