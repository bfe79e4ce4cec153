"""Which events the provider emits of a DAG run or a try, as Airflow's database has it. It does no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from keepline.airflow.reconcile.deciding import Kind

_ENDS_RUN = {"success": Kind.COMPLETE, "failed": Kind.FAIL}
_ENDS_TRY = {
    "success": Kind.COMPLETE,
    "failed": Kind.FAIL,
    "up_for_retry": Kind.FAIL,
    "skipped": Kind.COMPLETE,
}
# A task that waits to be taken up again has begun before.
_BEGUN = frozenset(
    {"running", "restarting", "deferred", "up_for_reschedule", "scheduled", "queued", *_ENDS_TRY}
)


@dataclass(frozen=True)
class RunRow:
    """A DAG run, as the database has it.

    Args:
        id: its number in the table.
        dag_id: of its DAG.
        run_id: Airflow's.
        state: Airflow's.
        start_at: when it began; ``None`` while it waits.
        end_at: when it ended; also of an earlier life, where it was cleared.
        date: the date that its OpenLineage run id is made of.
        clear_number: how often it was cleared.
    """

    id: int
    dag_id: str
    run_id: str
    state: str
    start_at: datetime | None
    end_at: datetime | None
    date: datetime
    clear_number: int


@dataclass(frozen=True)
class TryRow:
    """A try of a task, as the database has it, be it the latest or an earlier one.

    Args:
        dag_id: of its DAG.
        run_id: Airflow's, of its DAG run.
        task_id: of the task.
        map_index: -1 where the task isn't mapped.
        number: of the try.
        state: Airflow's; empty for none.
        start_at: when it began.
        end_at: when it ended.
        hostname: where a process began on it; empty where none did.
        version: of the DAG, from Airflow 3 on.
        past: whether it is out of the table of the earlier tries.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    number: int
    state: str
    start_at: datetime | None
    end_at: datetime | None
    hostname: str
    version: object
    past: bool


@dataclass(frozen=True)
class Due:
    """When which events are due.

    Args:
        start_at: s since 1970; ``None`` for no START.
        end_at: s since 1970; ``None`` for no end, or none yet.
        end: the type of the event that ends it.
    """

    start_at: float | None
    end_at: float | None
    end: Kind | None


def due_of_run(row: RunRow) -> Due:
    """The events of a DAG run: of its present life, where it was cleared, for no other is in the database.

    Args:
        row: the DAG run.
    """
    end = _ENDS_RUN.get(row.state)
    begun = end is not None or row.state == "running"
    return _due(row.start_at if begun else None, row.end_at, end)


def due_of_tries(rows: Iterable[TryRow], *, ends_skipped: bool) -> Iterator[tuple[TryRow, Due]]:
    """The events of the tries of one task of one DAG run, but for those that have none.

    Where no process of the task began, as with an EmptyOperator or a task that a branch skips, nothing is
    emitted, except that the scheduler tells of one that failed on the way there.

    Args:
        rows: all its tries.
        ends_skipped: whether this Airflow and provider emit an event for the end of a task that skips itself.
    """
    before: datetime | None = None
    seen: set[int] = set()
    for row in sorted(rows, key=lambda row: (row.number, not row.past)):
        # What was cleared, or waits for its next try, stands in both tables.
        if row.number in seen:
            continue
        seen.add(row.number)
        # The latest try has the host and beginning of the one before until it begins itself.
        began = bool(row.hostname) and row.start_at is not None and row.start_at != before
        before = row.start_at or before
        due = _due_of_try(row, began=began, ends_skipped=ends_skipped)
        if due is not None:
            yield row, due


def _due_of_try(row: TryRow, *, began: bool, ends_skipped: bool) -> Due | None:
    end = _ENDS_TRY.get(row.state)
    if not began:
        lost = row.state == "failed" and not row.past and row.number > 0 and row.end_at is not None
        return _due(None, row.end_at, end) if lost else None
    if row.state not in _BEGUN:
        return None
    if row.state == "skipped" and not ends_skipped:
        end = None
    return _due(row.start_at, row.end_at, end)


def _due(start: datetime | None, end_at: datetime | None, end: Kind | None) -> Due:
    if end is None or end_at is None:
        return Due(None if start is None else start.timestamp(), None, None)
    return Due(None if start is None else start.timestamp(), end_at.timestamp(), end)
