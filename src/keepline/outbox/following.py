"""What becomes of deliveries that were asked for again."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from typing import cast

from keepline.outbox.delivery import DeliveryState
from keepline.outbox.files import OutboxFiles
from keepline.outbox.snapshot import snapshot

_FEW = 5000
_UNKNOWN = "none"


def pending_of(files: OutboxFiles, destination: str, events: array[int]) -> int:
    """How many of some deliveries wait; while that is many, up to others between them are counted, too.

    Args:
        files: the outbox.
        destination: its name.
        events: their ids, in the order of appending, at least one.

    Raises:
        OutboxError: the outbox can't be read.
    """
    between = (
        "FROM delivery WHERE destination = (SELECT id FROM destination WHERE name = ?) AND state = 0 "
        "AND event BETWEEN ? AND ?"
    )
    values = (destination, events[0], events[-1])
    with snapshot(files) as db:
        count = int(db.execute(f"SELECT count(*) {between}", values).get)
        if count > _FEW:
            return min(count, len(events))
        rows = db.execute(f"SELECT event {between}", values).fetchall()
    return sum(_holds(events, int(row[0])) for row in cast("list[tuple[int]]", rows))


def ends_of(files: OutboxFiles, destination: str, events: array[int]) -> Counter[str]:
    """How many of some deliveries are in which state, by its name; ``none`` for what isn't known any more.

    Args:
        files: the outbox.
        destination: its name.
        events: their ids, in the order of appending, at least one.

    Raises:
        OutboxError: the outbox can't be read.
    """
    found: Counter[str] = Counter()
    with snapshot(files) as db:
        rows = db.execute(
            "SELECT event, state FROM delivery "
            "WHERE destination = (SELECT id FROM destination WHERE name = ?) AND event BETWEEN ? AND ?",
            (destination, events[0], events[-1]),
        )
        for event, state in rows:
            if _holds(events, int(event)):
                found[DeliveryState(int(state)).name.lower()] += 1
    found[_UNKNOWN] = len(events) - found.total()
    return +found


def _holds(events: array[int], event: int) -> bool:
    at = bisect_left(events, event)
    return at < len(events) and events[at] == event
