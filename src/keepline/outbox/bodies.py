"""Events' bodies, read out of the segments in which they were appended."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from keepline.errors import OutboxDamaged
from keepline.outbox.archive import find_segment
from keepline.outbox.files import OutboxFiles, unavailable
from keepline.outbox.owned import OwnedFile
from keepline.outbox.record import MAX_RECORD_BYTES, body_of

_MOST_OPEN = 4
_STRETCH_BYTES = 1024 * 1024
_MOST_POSITION = 2**48
_MOST_LENGTH = 2 * MAX_RECORD_BYTES


class Place(NamedTuple):
    """Where a record stands.

    Args:
        segment: its segment.
        position: offset of its first byte.
        length: bytes.
    """

    segment: int
    position: int
    length: int


def is_possible(segment: object, position: object, length: object) -> bool:
    """Whether a record can stand there, by what a ledger says that may be damaged.

    Args:
        segment: as of :class:`Place`.
        position: as of :class:`Place`.
        length: as of :class:`Place`.
    """
    return (
        type(segment) is type(position) is type(length) is int
        and segment >= 0 <= position < _MOST_POSITION
        and 0 < length <= _MOST_LENGTH
    )


class Bodies:
    """Reads bodies; keeps a few segments open.

    Args:
        files: the outbox.
    """

    def __init__(self, files: OutboxFiles) -> None:
        self._files = files
        self._open: dict[int, OwnedFile] = {}

    def read(self, places: Sequence[tuple[int, int, int]]) -> list[bytes | None]:
        """The bodies of some records, in their order; ``None`` for one that is damaged or gone.

        Args:
            places: as of :class:`Place`; best in the order in which they stand, since what stands
                together is read at once.

        Raises:
            OutboxUnavailable: a segment can't be opened or read.
        """
        found: list[bytes | None] = []
        for segment, stretch in _stretches(places):
            begin = stretch[0][0]
            data = self._bytes(segment, begin, stretch[-1][0] + stretch[-1][1] - begin)
            for position, length in stretch:
                found.append(_body(data[position - begin : position - begin + length]))
        return found

    def forget(self, segment: int) -> None:
        """Let go of a segment that is deleted."""
        file = self._open.pop(segment, None)
        if file is not None:
            file.close()

    def close(self) -> None:
        """Let go of all."""
        while self._open:
            self._open.popitem()[1].close()

    def _bytes(self, segment: int, begin: int, length: int) -> memoryview:
        file = self._open.pop(segment, None) or find_segment(self._files, segment)
        if file is None:
            return memoryview(b"")
        # The one that was used last stands last.
        self._open[segment] = file
        if len(self._open) > _MOST_OPEN:
            self._open.pop(next(iter(self._open))).close()
        try:
            return memoryview(os.pread(file.fd, length, begin))
        except OSError as error:
            raise unavailable("read", file.path, error) from error


def _stretches(places: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Positions and lengths of what stands close together in one segment."""
    current, first, last = -1, 0, 0
    stretch: list[tuple[int, int]] = []
    for segment, position, length in places:
        if segment != current or position < last or position + length - first > _STRETCH_BYTES:
            if stretch:
                yield current, stretch
            stretch = []
            current, first = segment, position
        last = position
        stretch.append((position, length))
    if stretch:
        yield current, stretch


def _body(record: memoryview) -> bytes | None:
    try:
        return body_of(record)
    except OutboxDamaged:
        return None
