"""What waits for a destination, read stretch by stretch in the order of appending."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any, cast

from keepline.errors import OutboxDamaged
from keepline.outbox.bodies import Place, is_possible
from keepline.outbox.delivery import DeliveryState, Pending
from keepline.outbox.ledger import Ledger

_COLUMNS = (
    "SELECT event.id, run_key, attempts, charged, first_at, charged_at, segment, position, length, "
    "CASE WHEN segment IS NULL THEN (SELECT body FROM body WHERE body.event = event.id) END "
    "FROM delivery JOIN event ON event.id = delivery.event WHERE destination = ? AND state = 0 "
)
_BEYOND = _COLUMNS + "AND delivery.event > ? ORDER BY delivery.event LIMIT ?"
# No index of the runs is needed: what a run has between two events of its own lies close together.
_OF_RUN = _COLUMNS + "AND delivery.event BETWEEN ? AND ? AND run_key = ? ORDER BY delivery.event LIMIT ?"


class Waiting:
    """What waits for one destination.

    Args:
        ledger: open.
        destination: the destination's id.
    """

    def __init__(self, ledger: Ledger, destination: int) -> None:
        self._ledger = ledger
        self._destination = destination

    def beyond(
        self, after: int, limit: int, most_bytes: int, without: Container[str] = ()
    ) -> tuple[list[Pending], bool]:
        """What waits behind an event.

        Args:
            after: only events with a greater id.
            limit: most rows.
            most_bytes: most bytes of bodies, but for the first.
            without: run keys whose bodies aren't wanted; they come as empty.

        Returns:
            the deliveries, and whether there may be more behind them.

        Raises:
            OutboxError: the ledger or a segment can't be read.
        """
        found, cut_off = self._rows(_BEYOND, (self._destination, after, limit), most_bytes, without)
        return self._pending(found, without), len(found) == limit or cut_off

    def of_run(self, run_key: str, first: int, last: int, limit: int, most_bytes: int) -> list[Pending]:
        """What waits of one run.

        Args:
            run_key: the run's.
            first: the smallest id that counts.
            last: the greatest.
            limit: most rows.
            most_bytes: most bytes of bodies, but for the first.

        Raises:
            OutboxError: the ledger or a segment can't be read.
        """
        found, _ = self._rows(_OF_RUN, (self._destination, first, last, run_key, limit), most_bytes, ())
        return self._pending(found, ())

    def _rows(
        self, query: str, values: tuple[Any, ...], most_bytes: int, without: Container[str]
    ) -> tuple[list[tuple[Any, ...]], bool]:
        """Rows that are what we write, and whether others were left for the sake of ``most_bytes``."""
        found: list[tuple[Any, ...]] = []
        left = most_bytes
        cut_off = False
        with self._ledger.using("read"):
            rows = self._ledger.db.execute(query, values)
            try:
                for row in cast("Iterator[tuple[Any, ...]]", rows):
                    size = _size_of(row)
                    if row[1] not in without:
                        left -= size
                        if left < 0 and found:
                            cut_off = True
                            break
                    found.append(row)
            finally:
                # A row that is left lying would keep the log from being written back.
                rows.close()
        return found, cut_off

    def _pending(self, rows: list[tuple[Any, ...]], without: Container[str]) -> list[Pending]:
        places = [Place(*row[6:9]) for row in rows if row[6] is not None and row[1] not in without]
        read = iter(self._ledger.bodies.read(places))
        return [
            Pending(row[0], row[1], b"", *row[2:6])
            if row[1] in without
            else Pending(row[0], row[1], row[9] if row[6] is None else next(read), *row[2:6])
            for row in rows
        ]


def _size_of(row: tuple[Any, ...]) -> int:
    """The bytes of what waits, if its row is what we write."""
    event, run_key, attempts, charged, first_at, charged_at, segment, position, length, body = row
    try:
        sound = type(run_key) is str and attempts >= 0 <= charged
        sound = sound and (first_at or 0.0) >= 0.0 <= (charged_at or 0.0)
    except TypeError:
        sound = False
    if segment is None:
        sound = sound and (body is None or type(body) is bytes)
    else:
        sound = sound and is_possible(segment, position, length)
    if not sound:
        raise OutboxDamaged(f"the row of event {event} in the ledger isn't one; the next relay repairs it")
    return len(body or b"") if segment is None else int(length)


def gather(ledger: Ledger, into: int, others: Iterable[int]) -> None:
    """Have one destination wait for what others wait for: the first of those that stand in for one another.

    What it had of the same events, delivered or dead, gives way: they are delivered once more.

    Args:
        ledger: open for writing.
        into: its id.
        others: ids.

    Raises:
        OutboxError: the ledger can't be written.
    """
    db = ledger.db
    for other in others:
        with ledger.transaction():
            for state in (DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.DISCARDED):
                db.execute(
                    "DELETE FROM delivery WHERE destination = ? AND state = ? AND event IN "
                    "(SELECT event FROM delivery WHERE destination = ? AND state = 0)",
                    (into, int(state), other),
                )
                ledger.count(into, state, -db.changes())
            db.execute(
                "UPDATE OR REPLACE delivery SET destination = ? WHERE destination = ? AND state = 0",
                (into, other),
            )
