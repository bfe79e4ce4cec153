"""The journal's segments as files: their names, their order, and when one may be deleted.

A segment is appended to until it has reached its size; then the next one begins. Its number is the time at
which it was created (ns since 1970), made greater than every number before it, so that no number is ever used
twice, even when every segment has been deleted. At any time at most one segment, the newest, takes appends:

- A segment is created under the journal's lock, and only when the newest is full.
- An append holds a shared lock on its segment, and looks under it whether the segment is still there and
  not full.
- A segment is deleted under an exclusive lock on it, and only by the relay.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from keepline.outbox.files import OutboxFiles, lock, open_private, unavailable

SUFFIX = ".seg"


def segment_numbers(files: OutboxFiles) -> list[int]:
    """The numbers of the segments there are, oldest first.

    Raises:
        OutboxUnavailable: the folder can't be read; a missing one is an empty journal.
    """
    try:
        names = os.listdir(files.journal)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unavailable("read the journal", files.journal, error) from error
    return sorted(int(name[: -len(SUFFIX)]) for name in names if _is_segment(name))


def segment_path(files: OutboxFiles, number: int) -> Path:
    """The file of a segment."""
    return files.journal / f"{number:020d}{SUFFIX}"


def open_newest(files: OutboxFiles, segment_bytes: int, lock_timeout: float) -> tuple[int, int]:
    """Open the segment that takes appends, creating it where there is none.

    Args:
        files: the outbox.
        segment_bytes: size at which a segment is full.
        lock_timeout: longest wait for the journal's lock, seconds.

    Returns:
        its number and an open file, to append to.

    Raises:
        OutboxUnavailable: it can't be opened or created.
        OutboxLocked: another process held the journal's lock for too long.
    """
    files.create()
    try:
        guard = open_private(files.journal_lock, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise unavailable("open", files.journal_lock, error) from error
    try:
        lock(guard, files.journal_lock, lock_timeout)
        numbers = segment_numbers(files)
        if numbers:
            opened = _open_if_roomy(segment_path(files, numbers[-1]), segment_bytes)
            if opened is not None:
                return numbers[-1], opened
        return _create(files, numbers[-1] if numbers else 0)
    finally:
        os.close(guard)


def create_next(files: OutboxFiles, number: int, lock_timeout: float) -> None:
    """Create the segment after the newest one, without opening it.

    Args:
        files: the outbox.
        number: the newest segment.
        lock_timeout: longest wait for the journal's lock, seconds.

    Raises:
        OutboxUnavailable: it can't be created.
        OutboxLocked: another process held the journal's lock for too long.
    """
    try:
        guard = open_private(files.journal_lock, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise unavailable("open", files.journal_lock, error) from error
    try:
        lock(guard, files.journal_lock, lock_timeout)
        os.close(_create(files, number)[1])
    finally:
        os.close(guard)


def _create(files: OutboxFiles, newest: int) -> tuple[int, int]:
    number = max(time.time_ns(), newest + 1)
    path = segment_path(files, number)
    try:
        return number, open_private(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
    except OSError as error:
        raise unavailable("create", path, error) from error


def _open_if_roomy(path: Path, segment_bytes: int) -> int | None:
    try:
        fd = open_private(path, os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unavailable("open", path, error) from error
    if os.fstat(fd).st_size < segment_bytes:
        return fd
    os.close(fd)
    return None


def _is_segment(name: str) -> bool:
    return name.endswith(SUFFIX) and name[: -len(SUFFIX)].isdigit()
