"""What became of the events of a run, at each destination, for those who ask."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import apsw

from keepline.errors import EventError
from keepline.event import parse
from keepline.outbox.bodies import Bodies
from keepline.outbox.contents import read_body
from keepline.outbox.delivery import DeliveryState
from keepline.outbox.files import OutboxFiles
from keepline.outbox.snapshot import snapshot

_TOGETHER = 10_000


@dataclass(frozen=True)
class TracedDelivery:
    """What became of one event at one destination.

    Args:
        destination: its name.
        state: ``pending``, ``delivered``, ``dead``, ``discarded``, or ``none``: the event isn't for it, since
            it was not configured when the event came, or another one took it.
        attempts: how often it was tried.
        status: HTTP status of the last answer; ``None`` when there was none.
        answer: the last answer, in words.
        first_at: s since 1970: when it was tried first.
        ended_at: s since 1970: when it was delivered, given up or discarded.
        why: of what is pending, what it waits for.
        charged: how often it failed while others of its destination succeeded.
    """

    destination: str
    state: str
    attempts: int = 0
    status: int | None = None
    answer: str = field(default="", repr=False)
    first_at: float | None = None
    ended_at: float | None = None
    why: str = ""
    charged: int = 0


@dataclass(frozen=True)
class TracedEvent:
    """An event of a run.

    Args:
        event: its id; ``None`` while it is in the journal, and not taken in by a relay yet.
        event_type: ``START`` and so on.
        event_time: when it happened, as it says itself; empty where it can't be read.
        appended_at: s since 1970.
        deliveries: what became of it, by destination.
    """

    event: int | None
    event_type: str
    event_time: str
    appended_at: float
    deliveries: tuple[TracedDelivery, ...]


@dataclass(frozen=True)
class TracedRun:
    """A run, with its events in the order of appending.

    Args:
        run: its run key.
        job_namespace: of its job.
        job_name: of its job.
        events: those that the outbox knows of.
    """

    run: str
    job_namespace: str
    job_name: str
    events: tuple[TracedEvent, ...]


@dataclass(frozen=True)
class Trace:
    """An answer.

    Args:
        runs: that the outbox knows of.
        known_since: s since 1970: when the oldest event was appended that the outbox knows of.
    """

    runs: tuple[TracedRun, ...]
    known_since: float | None


class _Row(NamedTuple):
    id: int
    segment: int | None
    position: int | None
    length: int | None
    taken_in: int
    event_type: str
    appended_at: int
    run_key: str
    job_namespace: str
    job_name: str


@dataclass(frozen=True)
class _Lane:
    ident: int
    name: str
    why: str


def trace(files: OutboxFiles, *, run: str | None = None, job: str | None = None, limit: int = 1) -> Trace:
    """Ask what became of a run, or of the latest runs of a job.

    Args:
        files: the outbox.
        run: the run key.
        job: ``name`` or ``namespace/name``.
        limit: most runs.

    Raises:
        OutboxError: the outbox can't be read.
    """
    with snapshot(files, with_journal=True) as db:
        # Looks at every event once: there is no index on the run key, which each append would pay for.
        if run is not None:
            keys = [run]
        else:
            found = db.execute(
                "SELECT run_key FROM known "
                "WHERE (job_name = :job OR job_namespace || '/' || job_name = :job) "
                "AND run_key <> '' GROUP BY run_key ORDER BY max(id) DESC LIMIT :limit",
                {"job": job, "limit": limit},
            ).fetchall()
            keys = [str(row[0]) for row in cast("list[tuple[str]]", found)]
        rows = db.execute(
            "SELECT id, segment, position, length, taken_in, event_type, appended_at, run_key, "
            "job_namespace, job_name FROM known "
            "WHERE run_key IN (SELECT value FROM json_each(?)) ORDER BY id",
            (json.dumps(keys),),
        ).fetchall()
        events: dict[str, list[_Row]] = {}
        for row in map(_Row._make, cast("list[tuple[Any, ...]]", rows)):
            events.setdefault(row.run_key, []).append(row)
        lanes = _lanes(db)
        bodies = Bodies(files)
        try:
            runs = [
                TracedRun(
                    key,
                    events[key][-1].job_namespace,
                    events[key][-1].job_name,
                    tuple(_events(db, bodies, lanes, events[key])),
                )
                for key in keys
                if key in events
            ]
        finally:
            bodies.close()
        oldest = db.execute("SELECT appended_at FROM known ORDER BY id LIMIT 1").get
    return Trace(tuple(runs), None if oldest is None else oldest / 1e9)


def _lanes(db: apsw.Connection) -> list[_Lane]:
    rows = db.execute("SELECT id, name, active, state, reason FROM destination ORDER BY name").fetchall()
    lanes = []
    for ident, name, active, state, reason in cast("list[tuple[int, str, int, str, str]]", rows):
        why = "it is out of the configuration" if not active else f"{state}: {reason}" if reason else ""
        lanes.append(_Lane(ident, name, why))
    return lanes


def _events(
    db: apsw.Connection, bodies: Bodies, lanes: list[_Lane], rows: list[_Row]
) -> Iterator[TracedEvent]:
    for begin in range(0, len(rows), _TOGETHER):
        some = rows[begin : begin + _TOGETHER]
        ids = json.dumps([row.id for row in some if row.taken_in])
        known = {lane.ident: _deliveries(db, lane, ids) for lane in lanes}
        for row in some:
            deliveries = [
                known[lane.ident].get(row.id) or TracedDelivery(lane.name, "none") for lane in lanes
            ]
            yield TracedEvent(
                row.id if row.taken_in else None,
                row.event_type,
                _event_time(read_body(db, bodies, *row[:4])),
                row.appended_at / 1e9,
                tuple(deliveries) if row.taken_in else (),
            )


def _event_time(body: bytes | None) -> str:
    try:
        return str(parse(body or b"").get("eventTime") or "")
    except EventError:
        return ""


def _deliveries(db: apsw.Connection, lane: _Lane, events: str) -> dict[int, TracedDelivery]:
    rows = db.execute(
        "SELECT event, state, attempts, status, answer, first_at, ended_at, charged FROM delivery "
        "WHERE destination = ? AND event IN (SELECT value FROM json_each(?))",
        (lane.ident, events),
    ).fetchall()
    return {
        row[0]: TracedDelivery(
            lane.name,
            DeliveryState(row[1]).name.lower(),
            attempts=row[2],
            status=row[3],
            answer=row[4],
            first_at=row[5],
            ended_at=row[6],
            why=lane.why if row[1] == DeliveryState.PENDING else "",
            charged=row[7],
        )
        for row in cast("list[tuple[Any, ...]]", rows)
    }
