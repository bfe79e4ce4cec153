"""Segments that are in the ledger as a whole: kept for their bodies, until retention lets them go."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from keepline.outbox.files import OutboxFiles, open_private, sync, unavailable
from keepline.outbox.owned import OwnedFile
from keepline.outbox.segments import SEALED, numbers_in, segment_name, segment_path


def archived_numbers(files: OutboxFiles) -> list[int]:
    """The numbers of the archived segments, oldest first.

    Args:
        files: the outbox.

    Raises:
        OutboxUnavailable: the folder can't be read; a missing one is an empty archive.
    """
    return numbers_in(files.archive)


def archived_path(files: OutboxFiles, number: int) -> Path:
    """The file of an archived segment.

    Args:
        files: the outbox.
        number: the segment.
    """
    return files.archive / segment_name(number)


def find_segment(files: OutboxFiles, number: int) -> OwnedFile | None:
    """Open a segment to read, wherever it is; ``None`` where it is gone.

    Args:
        files: the outbox.
        number: the segment.

    Raises:
        OutboxUnavailable: it can't be opened.
    """
    # In this order: it can be archived between the two looks, and never comes back.
    for path in (segment_path(files, number), archived_path(files, number)):
        try:
            return OwnedFile(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unavailable("open", path, error) from error
    return None


def archive(files: OutboxFiles, number: int) -> None:
    """Seal a segment and move it out of the journal. Only with its exclusive lock in hand.

    Args:
        files: the outbox.
        number: the segment.

    Raises:
        OutboxUnavailable: it can't be moved.
    """
    path = segment_path(files, number)
    try:
        files.archive.mkdir(mode=0o700, exist_ok=True)
        # First: who has it open sees by this that it takes no more.
        path.chmod(SEALED)
        path.rename(archived_path(files, number))
    except FileNotFoundError:
        return
    except OSError as error:
        raise unavailable("archive", path, error) from error


def delete(files: OutboxFiles, number: int) -> None:
    """Delete an archived segment, and give its space back.

    Args:
        files: the outbox.
        number: the segment.

    Raises:
        OutboxUnavailable: it can't be deleted.
    """
    path = archived_path(files, number)
    try:
        fd = open_private(path, os.O_RDONLY)
        try:
            # First: who has it open appends to what is writable, but for what has no name.
            path.unlink()
            # Processes that appended to it and have nothing to do since still have it open.
            with suppress(OSError):
                _empty(fd)
        finally:
            os.close(fd)
        # If a power cut brought it back, what is forgotten of it by then would be taken in anew.
        sync(files.archive)
    except FileNotFoundError:
        return
    except OSError as error:
        raise unavailable("delete", path, error) from error


def _empty(fd: int) -> None:
    os.fchmod(fd, 0o600)
    writable = open_private(Path(f"/proc/self/fd/{fd}"), os.O_WRONLY)
    try:
        os.ftruncate(writable, 0)
    finally:
        os.close(writable)
