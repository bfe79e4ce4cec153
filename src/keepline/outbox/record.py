"""How one event stands in the journal, byte by byte.

A record is a frame around one event, or around a command to the relay::

    mark      4 bytes   ff fe 4b, and 01 for an event, 02 for a command; the first two never occur in UTF-8
    checksum  4 bytes   CRC-32 of all that follows
    header    19 bytes  the length of texts and body together, when it was appended (ns since 1970), and the
                        lengths of the four texts
    texts               event type, run key, job namespace, job name
    body                the event's JSON, or the command's (its texts are empty)

All numbers are little-endian. A reader trusts a length only when the checksum agrees with it; where it
doesn't, the reader looks for the next mark (:func:`scan`). A text longer than its length can say is cut.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

# The standard library's takes seven times as long; its answers are the same.
from isal.isal_zlib import crc32

from keepline.errors import EventError, OutboxDamaged
from keepline.event import Event

MARK = b"\xff\xfeK\x01"
COMMAND_MARK = b"\xff\xfeK\x02"
MAX_RECORD_BYTES = 256 * 1024 * 1024
"""Far below what one ``write(2)`` of Linux (2 GiB) and one value of SQLite (1 GB) can hold, and what a reader
needs memory for."""

_PREFIX = MARK[:3]
_FRAME = struct.Struct("<4sI")
_HEADER = struct.Struct("<IqBHHH")
_HEAD = struct.Struct("<4sIIqBHHH")  # both


class Entry(NamedTuple):
    """One record as it was read from a journal. A tuple, since the relay makes one for each event.

    Args:
        position: offset of its frame in the segment, bytes.
        end: offset of the byte after it.
        appended_at: ns since 1970, by the clock of the process that appended it.
        event_type: as of :class:`Event`.
        run_key: as of :class:`Event`.
        job_namespace: as of :class:`Event`.
        job_name: as of :class:`Event`.
        body: the JSON document.
        is_command: whether it is a command, and no event.
    """

    position: int
    end: int
    appended_at: int
    event_type: str
    run_key: str
    job_namespace: str
    job_name: str
    body: bytes
    is_command: bool = False

    @property
    def event(self) -> Event:
        """The event in it."""
        return Event(self.body, self.run_key, self.event_type, self.job_namespace, self.job_name)


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
    return _FRAME.pack(MARK, crc32(content)) + content


def encode_command(body: bytes, appended_at: int) -> bytes:
    """The record of a command.

    Args:
        body: its JSON.
        appended_at: ns since 1970.
    """
    content = _HEADER.pack(len(body), appended_at, 0, 0, 0, 0) + body
    return _FRAME.pack(COMMAND_MARK, crc32(content)) + content


def body_of(record: memoryview) -> bytes:
    """The body of a record that is known to stand there.

    Args:
        record: its bytes, from the first of its frame to its last.

    Raises:
        OutboxDamaged: they aren't what was written.
    """
    try:
        _, checksum, length, _, *sizes = _HEAD.unpack_from(record)
    except struct.error:
        length, checksum, sizes = -1, 0, []
    if _HEAD.size + length != len(record) or crc32(record[_FRAME.size :]) != checksum:
        raise OutboxDamaged("a record's checksum isn't that of its content")
    return bytes(record[_HEAD.size + sum(sizes) :])


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
    view = memoryview(data)
    while True:
        found = data.find(_PREFIX, at)
        if found < 0:
            return
        if found > at and skipped is None:
            skipped = at
        entry = _decode(data, view, found, base)
        if entry is None:
            skipped = found if skipped is None else skipped
            at = found + 1
            continue
        if skipped is not None:
            yield Damage(base + skipped, base + found)
            skipped = None
        yield entry
        at = entry.end - base


def _decode(data: bytes, view: memoryview, at: int, base: int) -> Entry | None:
    texts = at + _HEAD.size
    if texts > len(data):
        return None
    mark, checksum, length, appended_at, type_size, key_size, namespace_size, name_size = _HEAD.unpack_from(
        data, at
    )
    end = texts + length
    run_key = texts + type_size
    namespace = run_key + key_size
    name = namespace + namespace_size
    body = name + name_size
    if end > len(data) or body > end or (mark != MARK and mark != COMMAND_MARK):
        return None
    if crc32(view[at + _FRAME.size : end]) != checksum:
        return None
    # Past the constructor, which takes longer than all the rest: this is done for each event.
    fields = (
        base + at,
        base + end,
        appended_at,
        data[texts:run_key].decode("utf-8", "replace"),
        data[run_key:namespace].decode("utf-8", "replace"),
        data[namespace:name].decode("utf-8", "replace"),
        data[name:body].decode("utf-8", "replace"),
        data[body:end],
        mark == COMMAND_MARK,
    )
    return tuple.__new__(Entry, fields)
