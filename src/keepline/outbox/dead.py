"""Dead letters, for those who ask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import apsw

from keepline.outbox.delivery import DeliveryState
from keepline.outbox.files import OutboxFiles
from keepline.outbox.selection import Selection, clause
from keepline.outbox.snapshot import snapshot
from keepline.outbox.sqlite import reading

_COLUMNS = (
    "event.id, status, answer, attempts, first_at, ended_at, appended_at, event_type, run_key, "
    "job_namespace, job_name"
)
# Of one destination, from the index of its dead letters. Those of its newest events are looked at: what is
# given up is new, or not much older.
_SINCE = (
    "SELECT count(*) FROM (SELECT ended_at FROM delivery WHERE destination = ? AND state = 2 "
    "ORDER BY event DESC LIMIT ?) WHERE ended_at >= ?"
)
_LOOKED_AT = 10_000
DEAD = frozenset({DeliveryState.DEAD})


@dataclass(frozen=True)
class DeadLetter:
    """A delivery that was given up.

    Args:
        destination: of which destination.
        event: the event's id.
        status: HTTP status of the last answer; ``None`` when it had none.
        answer: the last answer, in words, with the beginning of what the destination said.
        attempts: how often it was tried.
        first_at: s since 1970: when it was tried first; ``None`` where that isn't known.
        ended_at: s since 1970: when it was tried last, and given up.
        appended_at: s since 1970: when the event was appended.
        event_type: of the event.
        run: the event's run key.
        job_namespace: of its job.
        job_name: of its job.
    """

    destination: str
    event: int
    status: int | None
    answer: str = field(repr=False)
    attempts: int
    first_at: float | None
    ended_at: float
    appended_at: float
    event_type: str
    run: str
    job_namespace: str
    job_name: str

    @property
    def ident(self) -> str:
        """What a person names it by: ``<event>@<destination>``."""
        return f"{self.event}@{self.destination}"


def dead_letters(
    files: OutboxFiles, destinations: Iterable[str] | None, selection: Selection, limit: int
) -> tuple[list[DeadLetter], int]:
    """The dead letters that fit, those that were appended last first, and how many there are in all.

    Args:
        files: the outbox.
        destinations: of these; ``None`` for all.
        selection: what they have to fit.
        limit: most to give.

    Raises:
        OutboxError: the outbox can't be read.
    """
    tables, values = clause(selection)
    found: list[DeadLetter] = []
    total = 0
    with snapshot(files) as db:
        for ident, name in _named(db, destinations):
            values["destination"] = ident
            total += int(db.execute(f"SELECT count(*) FROM {tables}", values).get)  # noqa: S608
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM {tables} ORDER BY delivery.event DESC LIMIT :limit",  # noqa: S608
                {**values, "limit": limit},
            ).fetchall()
            found += [_letter(name, row) for row in cast("list[tuple[Any, ...]]", rows)]
    found.sort(key=lambda one: (-one.event, one.destination))
    return found[:limit], total


def dead_since(files: OutboxFiles, since: float) -> int:
    """How many deliveries to configured destinations were given up since some time; quick.

    Args:
        files: the outbox.
        since: s since 1970.

    Returns:
        those among the dead letters of each destination's 10,000 newest events that have any.

    Raises:
        OutboxUnavailable: the ledger can't be read.
        OutboxLocked: another process holds it.
        OutboxDamaged: it isn't a ledger.
    """
    with reading(files) as db:
        if db is None:
            return 0
        active = db.execute("SELECT id FROM destination WHERE active = 1 AND dead > 0").fetchall()
        return sum(int(db.execute(_SINCE, (one, _LOOKED_AT, since)).get) for (one,) in active)


def _named(db: apsw.Connection, destinations: Iterable[str] | None) -> list[tuple[int, str]]:
    rows = cast("list[tuple[int, str]]", db.execute("SELECT id, name FROM destination").fetchall())
    names = None if destinations is None else set(destinations)
    return [(ident, name) for ident, name in rows if names is None or name in names]


def _letter(destination: str, row: tuple[Any, ...]) -> DeadLetter:
    event, status, answer, attempts, first_at, ended_at, appended_at, *texts = row
    return DeadLetter(
        destination, event, status, answer, attempts, first_at, ended_at or 0.0, appended_at / 1e9, *texts
    )
