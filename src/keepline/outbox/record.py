"""How one event stands in the journal, byte by byte.

A record is a frame around one event::

    mark      4 bytes   ff fe 4b 01; the first two never occur in UTF-8, the last is the format's version
    checksum  4 bytes   CRC-32 of all that follows
    header    19 bytes  the length of texts and body together, when it was appended (ns since 1970), and the
                        lengths of the four texts
    texts               event type, run key, job namespace, job name
    body                the event's JSON

All numbers are little-endian. A reader trusts a length only when the checksum agrees with it; where it
doesn't, the reader looks for the next mark (:func:`scan`). A text longer than its length can say is cut.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from keepline.errors import EventError
from keepline.event import Event

MARK = b"\xff\xfeK\x01"
MAX_RECORD_BYTES = 256 * 1024 * 1024
"""Far below what one ``write(2)`` of Linux (2 GiB) and one value of SQLite (1 GB) can hold, and what a reader
needs memory for."""

_FRAME = struct.Struct("<4sI")
_HEADER = struct.Struct("<IQBHHH")


@dataclass(frozen=True)
class Entry:
    """One event as it was read from a journal.

    Args:
        position: offset of its frame in the segment, bytes.
        end: offset of the byte after it.
        appended_at: ns since 1970, by the clock of the process that appended it.
        event: the event.
    """

    position: int
    end: int
    appended_at: int
    event: Event


@dataclass(frozen=True)
class Damage:
    """A stretch of a segment that holds no whole record and was skipped.

    Args:
        position: offset of its first byte.
        end: offset of the byte after it.
    """

    position: int
    end: int


def encode(event: Event, appended_at: int) -> bytes:
    """The record of an event.

    Args:
        event: what to write.
        appended_at: ns since 1970.

    Raises:
        EventError: it is too large.
    """
    event_type = event.event_type.encode()[:0xFF]
    run_key = event.run_key.encode()[:0xFFFF]
    namespace = event.job_namespace.encode()[:0xFFFF]
    name = event.job_name.encode()[:0xFFFF]
    sizes = len(event_type), len(run_key), len(namespace), len(name)
    length = sum(sizes) + len(event.body)
    if length > MAX_RECORD_BYTES:
        raise EventError(
            f"an event of {len(event.body)} bytes is too large for the outbox, which takes up to "
            f"{MAX_RECORD_BYTES}; look for a facet that grew out of hand"
        )
    header = _HEADER.pack(length, appended_at, *sizes)
    content = b"".join((header, event_type, run_key, namespace, name, event.body))
    return _FRAME.pack(MARK, zlib.crc32(content)) + content


def scan(data: bytes, base: int = 0) -> Iterator[Entry | Damage]:
    """Every whole record in a stretch of a segment, and what had to be skipped between two of them.

    What is left at the end without a whole record behind it is not reported: it may still be being written.
    What a whole record stands behind is never written to again (see :mod:`keepline.outbox.journal`), so what
    was skipped once stays so.

    Args:
        data: bytes of the segment.
        base: offset of ``data`` in the segment.
    """
    at = 0
    skipped = None
    while True:
        found = data.find(MARK, at)
        if found < 0:
            return
        if found > at and skipped is None:
            skipped = at
        entry = _decode(data, found, base)
        if entry is None:
            skipped = found if skipped is None else skipped
            at = found + 1
            continue
        if skipped is not None:
            yield Damage(base + skipped, base + found)
            skipped = None
        yield entry
        at = entry.end - base


def _decode(data: bytes, at: int, base: int) -> Entry | None:
    start = at + _FRAME.size
    cursor = start + _HEADER.size
    if cursor > len(data):
        return None
    _, checksum = _FRAME.unpack_from(data, at)
    length, appended_at, *sizes = _HEADER.unpack_from(data, start)
    end = cursor + length
    if end > len(data) or sum(sizes) > length or zlib.crc32(memoryview(data)[start:end]) != checksum:
        return None
    texts = []
    for size in sizes:
        texts.append(data[cursor : cursor + size].decode(errors="replace"))
        cursor += size
    event_type, run_key, namespace, name = texts
    event = Event(data[cursor:end], run_key, event_type, namespace, name)
    return Entry(base + at, base + end, appended_at, event)
