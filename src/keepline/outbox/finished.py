"""Which segments may go: those of which all has ended, but for a few events."""

from __future__ import annotations

import time
from collections.abc import Container, Iterator
from typing import Any, cast

from keepline.outbox.archive import archived_path
from keepline.outbox.files import OutboxFiles, unavailable
from keepline.outbox.ledger import Ledger
from keepline.outbox.ledger_file import whole

# What of a segment isn't finished and is copied into the ledger, so that the segment can go: this part of its
# bytes, or so many where it is small, and no more events than these.
_STRAGGLERS = 1 / 8
_SMALL = 256 * 1024
_MOST_STRAGGLERS = 5000
# A segment that stays since much of it isn't finished isn't looked at again before the last delivery that
# was counted has ended, or so many seconds have passed.
_LOOK_AGAIN = 60.0

# The events of a stretch of ids with a delivery that waits or is dead, out of the indexes of just those. Row
# by row, for who looks at no more of them than it has to; an event may come once for each destination.
_ONE_BY_ONE = """
    SELECT destination.id, event.id, length FROM destination CROSS JOIN delivery INDEXED BY {index}
        ON delivery.destination = destination.id AND delivery.event BETWEEN :first AND :last
        CROSS JOIN event ON event.id = delivery.event
    WHERE delivery.state = {state} AND segment = :segment
"""
_UNFINISHED_ONE_BY_ONE = (
    f"{_ONE_BY_ONE.format(index='delivery_pending', state=0)} UNION ALL "
    f"{_ONE_BY_ONE.format(index='delivery_dead', state=2)}"
)
_STILL_UNFINISHED = "SELECT 1 FROM delivery WHERE destination = ? AND event = ? AND state IN (0, 2)"
_LAST_END = (
    "SELECT max(ended_at) FROM destination CROSS JOIN delivery ON delivery.destination = destination.id "
    "WHERE event BETWEEN :first AND :last"
)


class Finished:
    """Looks at segments, and remembers what keeps them, so that the next look at them costs little.

    Args:
        files: the outbox.
        ledger: open.
    """

    def __init__(self, files: OutboxFiles, ledger: Ledger) -> None:
        self._files = files
        self._ledger = ledger
        # When the last event of a segment ended, where that kept it: so long nobody has to look at it again.
        self._ended: dict[int, float] = {}
        # What keeps a segment: destination and event, and when that was found.
        self._kept_by: dict[int, tuple[int, int, float]] = {}

    def forget_all_but(self, known: Container[int]) -> None:
        """Forget segments that are gone.

        Args:
            known: the numbers of those that there are.
        """
        self._ended = {number: at for number, at in self._ended.items() if number in known}
        self._kept_by = {number: one for number, one in self._kept_by.items() if number in known}

    def stays(self, number: int, before: float, *, pressed: bool) -> bool:
        """Whether what was found at an earlier look still keeps a segment; quick.

        Args:
            number: the segment.
            before: s since 1970.
            pressed: whether it may go however lately its events have ended.

        Raises:
            OutboxError: the ledger can't be read.
        """
        if not pressed and self._ended.get(number, 0.0) >= before:
            return True
        destination, event, at = self._kept_by.get(number, (0, 0, 0.0))
        if not destination or not 0.0 <= time.time() - at < _LOOK_AGAIN:
            return False
        with self._ledger.using("read"):
            found = self._ledger.db.execute(_STILL_UNFINISHED, (destination, event)).get
        return found is not None

    def may_go(self, number: int, before: float, *, pressed: bool) -> bool:
        """Whether a segment's events have ended, all but a few.

        Args:
            number: the segment.
            before: s since 1970: the time before which they have to have ended.
            pressed: whether that may be however lately.

        Raises:
            OutboxError: archive or ledger can't be read.
        """
        stretch = stretch_of(self._ledger, number)
        if stretch is None:
            return False  # Not taken in.
        try:
            size = archived_path(self._files, number).stat().st_size
        except FileNotFoundError:
            return True
        except OSError as error:
            raise unavailable("look at", archived_path(self._files, number), error) from error
        if self._keeps_much(stretch, max(size * _STRAGGLERS, _SMALL)):
            return False
        if pressed:
            return True
        with self._ledger.using("read"):
            ended = self._ledger.db.execute(_LAST_END, stretch).get
            self._ended[number] = ended if isinstance(ended, float) else 0.0
        return self._ended[number] < before

    def _keeps_much(self, stretch: dict[str, Any], most_bytes: float) -> bool:
        """Whether more of a segment isn't finished than is copied into the ledger."""
        seen: set[int] = set()
        left = most_bytes
        with self._ledger.using("read"):
            rows = self._ledger.db.execute(_UNFINISHED_ONE_BY_ONE, stretch)
            try:
                for destination, event, length in cast("Iterator[tuple[int, int, object]]", rows):
                    if event not in seen:
                        seen.add(event)
                        left -= whole(length)
                        if left < 0 or len(seen) > _MOST_STRAGGLERS:
                            self._kept_by[stretch["segment"]] = (destination, event, time.time())
                            return True
            finally:
                rows.close()
        return False


def stretch_of(ledger: Ledger, number: int) -> dict[str, Any] | None:
    """The ids between which those of a segment's events lie; ``None`` when it wasn't taken in.

    Args:
        ledger: open.
        number: the segment.

    Raises:
        OutboxError: the ledger can't be read.
    """
    with ledger.using("read"):
        found = ledger.db.execute(
            "SELECT coalesce(first_event, 1), coalesce(last_event, 0) FROM mark WHERE segment = ?",
            (number,),
        ).get
        if found is None:
            return None
        first, last = cast("tuple[object, object]", found)
        return {"segment": number, "first": whole(first), "last": whole(last)}
