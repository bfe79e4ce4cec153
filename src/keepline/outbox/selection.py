"""Which deliveries a replay or a discard is about."""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass
from typing import cast

import apsw

from keepline.outbox.delivery import DeliveryState
from keepline.outbox.files import OutboxFiles
from keepline.outbox.snapshot import snapshot

_SHOWN = 5


@dataclass(frozen=True)
class Selection:
    """What is asked for; all that is said has to hold.

    Args:
        states: in which a delivery has to be; none but those that have ended.
        never_had: whether events that the destination never had are meant, too.
        run: the run key.
        job: ``name`` or ``namespace/name``.
        since: appended at or after, s since 1970.
        until: appended before, s since 1970.
        ended_since: delivered or given up at or after, s since 1970.
        ended_until: delivered or given up before, s since 1970.
        events: only these events, by their ids.
    """

    states: frozenset[DeliveryState]
    never_had: bool = False
    run: str | None = None
    job: str | None = None
    since: float | None = None
    until: float | None = None
    ended_since: float | None = None
    ended_until: float | None = None
    events: tuple[int, ...] | None = None


def clause(selection: Selection) -> tuple[str, dict[str, object]]:
    """The tables and conditions of a selection, for one destination (``:destination``), and their values.

    Args:
        selection: what is asked for.
    """
    # The states stand there as numbers, so that SQLite sees that the index of dead letters will do.
    numbers = sorted(int(state) for state in selection.states)
    states = f"state = {numbers[0]}" if len(numbers) == 1 else f"state IN ({', '.join(map(str, numbers))})"
    on = "delivery.event = event.id AND delivery.destination = :destination"
    if selection.never_had:
        conditions = [f"(state IS NULL OR {states})"]
        tables = f"event LEFT JOIN delivery ON {on}"
    else:
        conditions = [states]
        tables = f"delivery JOIN event ON {on}"
    values: dict[str, object] = {}
    for name, condition, value in (
        ("run", "run_key = :run", selection.run),
        ("job", "(job_name = :job OR job_namespace || '/' || job_name = :job)", selection.job),
        ("since", "appended_at >= :since", _nanoseconds(selection.since)),
        ("until", "appended_at < :until", _nanoseconds(selection.until)),
        ("ended_since", "ended_at >= :ended_since", selection.ended_since),
        ("ended_until", "ended_at < :ended_until", selection.ended_until),
        ("events", "event.id IN (SELECT value FROM json_each(:events))", _listed(selection.events)),
    ):
        if value is not None:
            conditions.append(condition)
            values[name] = value
    return f"{tables} WHERE {' AND '.join(conditions)}", values


def _nanoseconds(at: float | None) -> int | None:
    return None if at is None else int(at * 1e9)


def _listed(events: tuple[int, ...] | None) -> str | None:
    return None if events is None else json.dumps(events)


@dataclass(frozen=True)
class SetBack:
    """A run that a replay would set back: it begins again at a destination that was told its end.

    Args:
        run: its key.
        job_namespace: of its job.
        job_name: of its job.
    """

    run: str
    job_namespace: str
    job_name: str


@dataclass(frozen=True)
class Chosen:
    """What a selection comes to at one destination.

    Args:
        destination: its name.
        ledger: identity of the ledger in which the ids are.
        events: their ids, in the order of appending.
        runs: of how many runs.
        first_at: s since 1970: when the first was appended; ``None`` when there is none.
        last_at: s since 1970: when the last was.
        set_back: how many runs a replay would set back.
        examples: a few of them.
    """

    destination: str
    ledger: str
    events: array[int]
    runs: int
    first_at: float | None
    last_at: float | None
    set_back: int
    examples: tuple[SetBack, ...]


def choose(files: OutboxFiles, destination: str, selection: Selection) -> Chosen:
    """Find what a selection comes to; with a million events this takes seconds, and 8 bytes of memory each.

    Args:
        files: the outbox.
        destination: its name; one that the ledger doesn't know has had nothing yet.
        selection: what is asked for.

    Raises:
        OutboxError: the outbox can't be read.
    """
    tables, values = clause(selection)
    with snapshot(files) as db:
        ident = db.execute("SELECT id FROM destination WHERE name = ?", (destination,)).get
        values["destination"] = -1 if ident is None else ident
        # Tables of SQLite's own, which go to its temporary files where they are large.
        db.execute(
            "CREATE TEMP TABLE chosen "
            "(id INTEGER PRIMARY KEY, run_key TEXT, event_type TEXT, appended_at INTEGER)"
        )
        db.execute(
            "INSERT INTO temp.chosen "  # noqa: S608 - the conditions are ours, the values are bound
            f"SELECT event.id, run_key, event_type, appended_at FROM {tables}",
            values,
        )
        ((runs, first_at, last_at),) = cast(
            "list[tuple[int, int | None, int | None]]",
            db.execute(
                "SELECT count(DISTINCT nullif(run_key, '')), min(appended_at), max(appended_at) "
                "FROM temp.chosen"
            ).fetchall(),
        )
        set_back, examples = _set_back(db, values["destination"])
        return Chosen(
            destination=destination,
            ledger=str(db.execute("SELECT identity FROM ledger").get),
            events=array("q", (row[0] for row in db.execute("SELECT id FROM temp.chosen ORDER BY id"))),
            runs=runs,
            first_at=None if first_at is None else first_at / 1e9,
            last_at=None if last_at is None else last_at / 1e9,
            set_back=set_back,
            examples=examples,
        )


def _set_back(db: apsw.Connection, destination: object) -> tuple[int, tuple[SetBack, ...]]:
    # The last event of each chosen run that says that the run is under way.
    db.execute("CREATE TEMP TABLE begun (run_key TEXT PRIMARY KEY, id INTEGER) WITHOUT ROWID")
    db.execute(
        "INSERT INTO temp.begun SELECT run_key, max(id) FROM temp.chosen "
        "WHERE event_type IN ('START', 'RUNNING') AND run_key <> '' GROUP BY run_key"
    )
    if not db.execute("SELECT 1 FROM temp.begun LIMIT 1").get:
        return 0, ()
    # Of these runs, those whose end was delivered, and comes no more behind it: none that waits, or is
    # replayed too, was appended later.
    db.execute(
        "CREATE TEMP TABLE set_back AS "
        "SELECT event.run_key, job_namespace, job_name, begun.id AS begun, "
        "max(state = 1) AS told, "
        "max(CASE WHEN state = 0 OR chosen.id IS NOT NULL THEN event.id END) AS again "
        "FROM event CROSS JOIN temp.begun ON begun.run_key = event.run_key "
        "LEFT JOIN delivery ON delivery.destination = ? AND delivery.event = event.id "
        "LEFT JOIN temp.chosen ON chosen.id = event.id "
        "WHERE event.event_type IN ('COMPLETE', 'FAIL', 'ABORT') "
        "GROUP BY event.run_key HAVING told AND (again IS NULL OR again < begun.id)",
        (destination,),
    )
    examples = db.execute("SELECT run_key, job_namespace, job_name FROM temp.set_back LIMIT ?", (_SHOWN,))
    count = db.execute("SELECT count(*) FROM temp.set_back").get
    return int(count), tuple(SetBack(*map(str, row)) for row in examples.fetchall())
