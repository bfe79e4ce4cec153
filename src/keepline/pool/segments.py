"""Reading the calls of a spool, in their order, from whatever is left of it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from keepline.pool.place import open_to_read
from keepline.pool.written import after_damage, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keepline.pool.place import Place
    from keepline.pool.position import Position
    from keepline.pool.written import Written


class Found(NamedTuple):
    """A call, and where it stands."""

    segment: int
    offset: int
    call: Written

    @property
    def end(self) -> int:
        """Where the next one begins, in the same segment."""
        return self.offset + self.call.size


class Segments:
    """The segments of one spool, for one thread.

    Args:
        place: of the spool.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._number = 0
        self._fd = -1

    def at(self, segment: int, offset: int) -> Written | None:
        """Read the call at a place; None if no whole one is there.

        Args:
            segment: its number.
            offset: in there.
        """
        fd = self._open(segment)
        return None if fd is None else read(fd, offset)

    def following(self, segment: int, offset: int) -> Found | None:
        """Find the first whole call at a place or behind it; None if there is none yet.

        Args:
            segment: its number.
            offset: in there.

        Raises:
            OSError: a segment can't be opened, for want of descriptors.
        """
        while True:
            later = self._later(segment)
            # Only now: the owner appends to a segment no more when there is a later one.
            fd = self._open(segment)
            if fd is not None:
                call = read(fd, offset)
                if call is not None:
                    return Found(segment, offset, call)
                behind = after_damage(fd, offset) if os.fstat(fd).st_size > offset else None
                if behind is not None:
                    # It was looked at before the one behind it was written: it may be whole by now.
                    call = read(fd, offset)
                    return Found(segment, offset, call) if call else self.following(segment, behind)
            if later is None:
                return None
            segment, offset = later, 0

    def waiting(self, position: Position) -> Iterator[Found]:
        """Yield the calls that nobody has, those to be run again first.

        Args:
            position: what is done.
        """
        for one in position.free:
            call = self.at(*one.key)
            if call is not None:
                yield Found(*one.key, call)
        place = position.segment, position.offset
        while (found := self.following(*place)) is not None:
            yield found
            place = found.segment, found.end

    def close(self) -> None:
        """Close what is open."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _later(self, segment: int) -> int | None:
        if self._place.find(segment + 1) is not None:
            return segment + 1
        if self._place.find(segment) is not None:
            return None
        # What is before it was removed, or the state is new because it was damaged.
        return next((number for number in self._place.segments() if number > segment), None)

    def _open(self, number: int) -> int | None:
        if number != self._number:
            self.close()
        if self._fd < 0:
            path = self._place.find(number)
            if path is None:
                return None
            with suppress(FileNotFoundError, PermissionError):  # removed meanwhile, or another user's
                self._fd = open_to_read(path)
                self._number = number
        return None if self._fd < 0 else self._fd
