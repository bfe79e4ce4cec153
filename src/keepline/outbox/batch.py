"""Reading one segment of the journal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from keepline.outbox.archive import archived_path
from keepline.outbox.files import OutboxFiles, unavailable
from keepline.outbox.owned import OwnedFile
from keepline.outbox.record import Damage, Entry, scan
from keepline.outbox.segments import segment_path

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


def read(files: OutboxFiles, number: int, position: int, *, limit: int, archived: bool = False) -> Batch:
    """Read whole records of a segment.

    A segment that is shorter than the position was cut off. If a power cut did it, all that is left was taken
    in, and nothing was appended since (see :mod:`keepline.outbox.segments`). If somebody did, events may have
    been appended since, and stand anywhere in it: it is read from its beginning, better twice than never.

    Args:
        files: the outbox.
        number: the segment.
        position: where to begin, bytes.
        limit: most records to give.
        archived: whether it is one of the archive.

    Returns:
        the records; a segment that isn't there gives none.

    Raises:
        OutboxUnavailable: the segment can't be read.
    """
    path = archived_path(files, number) if archived else segment_path(files, number)
    try:
        file = OwnedFile(path, os.O_RDONLY)
    except FileNotFoundError:
        return Batch(number, position, position, 0, (), (), more=False)
    except OSError as error:
        raise unavailable("open", path, error) from error
    try:
        return read_file(file, number, position, limit)
    finally:
        file.close()


def read_file(file: OwnedFile, number: int, position: int, limit: int) -> Batch:
    """As :func:`read`, of a segment that is open.

    Args:
        file: the segment's.
        number: the segment.
        position: where to begin, bytes.
        limit: most records to give.

    Raises:
        OutboxUnavailable: it can't be read.
    """
    wanted = _READ_BYTES
    while True:
        try:
            state = os.fstat(file.fd)
            size = state.st_size
            if size < position and _is_older_than_boot(state):
                return Batch(number, position, position, size, (), (), more=False)
            cut_off = (Damage(size, position),) if size < position else ()
            begin = 0 if cut_off else position
            data = os.pread(file.fd, min(wanted, size - begin), begin)
        except OSError as error:
            raise unavailable("read", file.path, error) from error
        entries: list[Entry] = []
        damages: list[Damage] = [*cut_off]
        end = begin
        for found in scan(data, begin):
            end = found.end
            if isinstance(found, Damage):
                damages.append(found)
                continue
            entries.append(found)
            if len(entries) >= limit:
                break
        if entries or len(data) < wanted:
            more = bool(entries) and end < size
            return Batch(number, position, end, size, tuple(entries), tuple(damages), more)
        # A record larger than what was read, or a long damaged stretch: look at more of it at once.
        wanted *= 4


def _is_older_than_boot(state: os.stat_result) -> bool:
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return clock is not None and state.st_mtime < time.time() - time.clock_gettime(clock)


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
