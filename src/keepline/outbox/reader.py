"""The journal's back: from where the relay takes events in, and where segments end."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

from keepline.outbox.archive import archive
from keepline.outbox.batch import Batch, read, read_file
from keepline.outbox.files import OutboxFiles, try_lock, unavailable
from keepline.outbox.owned import OwnedFile, held
from keepline.outbox.segments import segment_numbers, segment_path, takes_appends

__all__ = ["Batch", "is_full", "read_next", "retire", "retire_all"]


def read_next(files: OutboxFiles, position: Callable[[int], int], *, limit: int) -> Batch | None:
    """Read what comes next in the journal.

    An event is never given before one that caused it, even where a segment ends between them. An append that
    looked at a segment just before it was sealed can write to it after others wrote to the next one. So a
    later segment's events are given only if those before, looked at again afterwards, haven't grown.

    Args:
        files: the outbox.
        position: gives up to where a segment was taken in, bytes.
        limit: most records to give.

    Returns:
        the records, or what else moves the mark of a segment; ``None`` when everything was taken in.

    Raises:
        OutboxUnavailable: the journal can't be read.
    """
    while True:
        ended: list[Batch] = []
        for number in segment_numbers(files):
            batch = read(files, number, position(number), limit=limit)
            if batch.position == batch.start:
                ended.append(batch)
            elif any(_grown(files, one) for one in ended):
                break
            else:
                return batch
        else:
            return None


def _grown(files: OutboxFiles, batch: Batch) -> bool:
    path = segment_path(files, batch.segment)
    try:
        return path.stat().st_size > batch.size
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unavailable("read", path, error) from error


def is_full(files: OutboxFiles, number: int, segment_bytes: int) -> bool:
    """Whether a segment takes no more appends, but for those under way.

    Args:
        files: the outbox.
        number: the segment.
        segment_bytes: size at which a segment is full.

    Raises:
        OutboxUnavailable: it can't be looked at.
    """
    path = segment_path(files, number)
    try:
        return not takes_appends(path.stat(), segment_bytes)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise unavailable("read", path, error) from error


def retire(files: OutboxFiles, number: int, position: int) -> bool:
    """Archive a segment of which everything up to a position has been taken in, if no event came since.

    Appends that wait for it meanwhile open the next one.

    Args:
        files: the outbox.
        number: the segment.
        position: up to where it was taken in, bytes.

    Returns:
        whether it is gone; not when an append is under way or came later.

    Raises:
        OutboxUnavailable: it can't be opened, read or moved.
    """
    with ExitStack() as stack:
        done = _seize(files, number, position, stack)
        if done:
            archive(files, number)
        return done


def retire_all(
    files: OutboxFiles, position: Callable[[int], int], *, timeout: float, then: Callable[[], None]
) -> bool:
    """Archive the whole journal, if everything in it was taken in, and tell of it before any new append.

    An append either came before, and this moves nothing, or has to create a segment, which it can only when
    ``then`` has returned.

    Args:
        files: the outbox.
        position: gives up to where a segment was taken in, bytes.
        timeout: longest wait for the journal's lock, seconds.
        then: called when all of it is gone. Appends wait for it, and only so long.

    Returns:
        whether it is gone; not when an append is under way or came later.

    Raises:
        OutboxUnavailable: a segment can't be opened, read or moved.
        OutboxLocked: another process held the journal's lock for too long.
    """
    with held(files.journal_lock, timeout), ExitStack() as stack:
        numbers = segment_numbers(files)
        done = all(_seize(files, number, position(number), stack) for number in numbers)
        if done:
            for number in numbers:
                archive(files, number)
            then()
        return done


def _seize(files: OutboxFiles, number: int, position: int, stack: ExitStack) -> bool:
    """Keep appends out of a segment until the stack ends, if all of it was taken in and none is under way."""
    path = segment_path(files, number)
    try:
        file = OwnedFile(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise unavailable("open", path, error) from error
    stack.callback(file.close)
    try:
        # With the lock in hand no append is under way: what is no whole record now was torn.
        return try_lock(file.fd) and not read_file(file, number, position, limit=1).entries
    except OSError as error:
        raise unavailable("lock", path, error) from error
