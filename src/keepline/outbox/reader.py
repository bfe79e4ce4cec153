"""The journal's back: from where the relay takes events in, and where segments end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from keepline.outbox.files import OutboxFiles, open_private, try_lock, unavailable
from keepline.outbox.owned import OwnedFile, held
from keepline.outbox.record import Damage, Entry, scan
from keepline.outbox.segments import segment_numbers, segment_path, takes_appends

_READ_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Batch:
    """What one read of a segment gave.

    Args:
        segment: its number.
        start: the position that was asked for, bytes.
        position: up to where it was read, bytes; before ``start`` when the segment has become shorter.
        size: how long it was, bytes.
        entries: the whole records, in order.
        damages: what was skipped between them.
        more: whether the segment goes on behind ``position``.
    """

    segment: int
    start: int
    position: int
    size: int
    entries: tuple[Entry, ...]
    damages: tuple[Damage, ...]
    more: bool


def read(files: OutboxFiles, number: int, position: int, *, limit: int) -> Batch:
    """Read whole records of a segment.

    A segment that is shorter than the position was cut off by somebody: it is read from its beginning, since
    what was appended afterwards can stand anywhere in it. Better twice than never.

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
    try:
        file = OwnedFile(segment_path(files, number), os.O_RDONLY)
    except FileNotFoundError:
        return Batch(number, position, position, 0, (), (), more=False)
    except OSError as error:
        raise unavailable("open", segment_path(files, number), error) from error
    try:
        return _read(file, number, position, limit)
    finally:
        file.close()


def _read(file: OwnedFile, number: int, position: int, limit: int) -> Batch:
    wanted = _READ_BYTES
    while True:
        try:
            size = os.fstat(file.fd).st_size
            cut_off = (Damage(size, position),) if size < position else ()
            begin = 0 if cut_off else position
            data = os.pread(file.fd, min(wanted, size - begin), begin)
        except OSError as error:
            raise unavailable("read", file.path, error) from error
        entries: list[Entry] = []
        damages: list[Damage] = [*cut_off]
        end = begin
        for found in scan(data, begin):
            if isinstance(found, Damage):
                damages.append(found)
            else:
                entries.append(found)
            end = found.end
            if len(entries) >= limit:
                break
        if entries or len(data) < wanted:
            more = bool(entries) and end < size
            return Batch(number, position, end, size, tuple(entries), tuple(damages), more)
        # A record larger than what was read, or a long damaged stretch: look at more of it at once.
        wanted *= 4


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


def backlog(files: OutboxFiles, number: int, position: int) -> Iterator[Entry]:
    """The records of a segment from a position to its end, read in steps.

    Args:
        files: the outbox.
        number: the segment.
        position: where to begin, bytes.

    Raises:
        OutboxUnavailable: the segment can't be read.
    """
    more = True
    while more:
        batch = read(files, number, position, limit=1000)
        yield from batch.entries
        position, more = batch.position, batch.more


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


def retire(
    files: OutboxFiles,
    number: int,
    position: int,
    *,
    lock_timeout: float = 0.0,
    then: Callable[[], None] | None = None,
) -> bool:
    """Delete a segment of which everything up to a position has been taken in, if no event came since.

    Appends that wait for it meanwhile open the next one.

    Args:
        files: the outbox.
        number: the segment.
        position: up to where it was taken in, bytes.

    Returns:
        whether it is gone; not when an append is under way or came later.

    Raises:
        OutboxUnavailable: it can't be opened, read or deleted.
    """
    if then is not None:  # TEMPORARY: until the relay calls retire_all()
        return retire_all(files, lambda n: position if n == number else 0, timeout=lock_timeout, then=then)
    with ExitStack() as stack:
        done = _seize(files, number, position, stack)
        if done:
            _delete(segment_path(files, number))
        return done


def retire_all(
    files: OutboxFiles, position: Callable[[int], int], *, timeout: float, then: Callable[[], None]
) -> bool:
    """Delete the whole journal, if everything in it has been taken in, and tell of it before any new append.

    An append either came before, and this deletes nothing, or has to create a segment, which it can only when
    ``then`` has returned.

    Args:
        files: the outbox.
        position: gives up to where a segment was taken in, bytes.
        timeout: longest wait for the journal's lock, seconds.
        then: called when all of it is gone. Appends wait for it, and only so long.

    Returns:
        whether it is gone; not when an append is under way or came later.

    Raises:
        OutboxUnavailable: a segment can't be opened, read or deleted.
        OutboxLocked: another process held the journal's lock for too long.
    """
    with held(files.journal_lock, timeout), ExitStack() as stack:
        numbers = segment_numbers(files)
        done = all(_seize(files, number, position(number), stack) for number in numbers)
        if done:
            for number in numbers:
                _delete(segment_path(files, number))
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
        return try_lock(file.fd) and not _read(file, number, position, limit=1).entries
    except OSError as error:
        raise unavailable("lock", path, error) from error


def _delete(path: Path) -> None:
    try:
        # Sealed ones too, so that its space can be given back: processes that appended to it and have nothing
        # to do since still have it open.
        path.chmod(0o600)
        fd = open_private(path, os.O_WRONLY)
        try:
            path.unlink()
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return
    except OSError as error:
        raise unavailable("delete", path, error) from error
