"""The journal's back: from where the relay takes events in, and where segments end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from keepline.outbox.files import OutboxFiles, open_private, try_lock, unavailable
from keepline.outbox.record import Damage, Entry, scan
from keepline.outbox.segments import create_next, segment_numbers, segment_path

_READ_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Batch:
    """What one read of a segment gave.

    Args:
        segment: its number.
        position: up to where it was read, bytes.
        entries: the whole records, in order.
        damages: what was skipped between them.
        more: whether the segment goes on behind ``position``.
    """

    segment: int
    position: int
    entries: tuple[Entry, ...]
    damages: tuple[Damage, ...]
    more: bool


def read(files: OutboxFiles, number: int, position: int, *, limit: int) -> Batch:
    """Read whole records of a segment.

    Args:
        files: the outbox.
        number: the segment.
        position: where to begin, bytes.
        limit: most records to give.

    Returns:
        the records; a segment that isn't there gives none.

    Raises:
        OutboxUnavailable: the segment can't be read.
    """
    path = segment_path(files, number)
    try:
        fd = open_private(path, os.O_RDONLY)
    except FileNotFoundError:
        return Batch(number, position, (), (), more=False)
    except OSError as error:
        raise unavailable("open", path, error) from error
    try:
        return _read(fd, path, number, position, limit)
    finally:
        os.close(fd)


def _read(fd: int, path: Path, number: int, position: int, limit: int) -> Batch:
    size = os.fstat(fd).st_size
    wanted = _READ_BYTES
    while True:
        try:
            data = os.pread(fd, min(wanted, max(size - position, 0)), position)
        except OSError as error:
            raise unavailable("read", path, error) from error
        entries: list[Entry] = []
        damages: list[Damage] = []
        end = position
        for found in scan(data, position):
            if isinstance(found, Damage):
                damages.append(found)
            else:
                entries.append(found)
            end = found.end
            if len(entries) >= limit:
                break
        if entries or position + len(data) >= size:
            return Batch(number, end, tuple(entries), tuple(damages), more=bool(entries) and end < size)
        # A record larger than what was read, or a long damaged stretch: look at more of it at once.
        wanted *= 4


def backlog(files: OutboxFiles, number: int, position: int) -> Iterator[Entry]:
    """The records of a segment from a position to its end, read in steps.

    Args:
        files: the outbox.
        number: the segment.
        position: where to begin, bytes.
    """
    more = True
    while more:
        batch = read(files, number, position, limit=1000)
        yield from batch.entries
        position, more = batch.position, batch.more


def retire(
    files: OutboxFiles,
    number: int,
    position: int,
    *,
    lock_timeout: float,
    then: Callable[[], None] = lambda: None,
) -> bool:
    """Delete a segment of which everything up to a position has been taken in, if no event came since.

    When it is the newest, its successor is created first, so that numbers go on rising.

    Args:
        files: the outbox.
        number: the segment.
        position: up to where it was taken in, bytes.
        lock_timeout: longest wait for the journal's lock, seconds.
        then: called when it is gone, while appends still wait for the segment's lock.

    Returns:
        whether it is gone; not when an append is under way or came later.

    Raises:
        OutboxUnavailable: it can't be opened or deleted, or its successor not created.
        OutboxLocked: another process held the journal's lock for too long.
    """
    path = segment_path(files, number)
    try:
        fd = open_private(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise unavailable("open", path, error) from error
    try:
        # With the lock in hand no append is under way: what is no whole record now was torn by a kill.
        if not try_lock(fd) or _read(fd, path, number, position, limit=1).entries:
            return False
        if segment_numbers(files)[-1:] == [number]:
            create_next(files, number, lock_timeout)
        path.unlink(missing_ok=True)
        then()
        return True
    except OSError as error:
        raise unavailable("delete", path, error) from error
    finally:
        os.close(fd)


def is_full(files: OutboxFiles, number: int, segment_bytes: int) -> bool:
    """Whether a segment takes no more appends.

    Args:
        files: the outbox.
        number: the segment.
        segment_bytes: size at which a segment is full.
    """
    try:
        return segment_path(files, number).stat().st_size >= segment_bytes
    except FileNotFoundError:
        return True
    except OSError as error:
        raise unavailable("read", segment_path(files, number), error) from error
