"""Reading Airflow's database a page at a time: nothing is written, no transaction outlives a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import groupby
from operator import attrgetter
from typing import Any

from airflow import settings
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from sqlalchemy import and_, or_
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from keepline.airflow.reconcile.expecting import RunRow, TryRow
from keepline.errors import ReconcileError

RUNS_TOGETHER = 200
_TRIES_TOGETHER = 2000
# A task can end a little after its DAG run has: it is being killed, or tears something down.
_AFTER_ITS_RUN = 3600.0
_FINISHED = ("success", "failed")


@contextmanager
def reading() -> Iterator[Session]:
    """A session of our own, of which nothing is ever written.

    Not the one that Airflow's own functions share in a thread: they commit, and what is put into objects
    here, for the sake of an event, must not get into the database with that.

    Raises:
        ReconcileError: the database can't be read.
    """
    if settings.Session is None:
        raise ReconcileError("Airflow has no session for its metadata database in this process")
    session: Session = settings.Session.session_factory(autoflush=False)
    try:
        yield session
    except SQLAlchemyError as error:
        address = settings.engine.url.render_as_string(hide_password=True) if settings.engine else "?"
        cause = getattr(error, "orig", None) or error
        raise ReconcileError(
            f"can't read Airflow's metadata database {address}: {' '.join(str(cause).split())[:300]}; see "
            "`airflow db check`"
        ) from error
    finally:
        session.rollback()
        session.close()


def fresh(session: Session) -> None:
    """End the transaction, and forget all objects: what is read next is as it is then.

    Args:
        session: of :func:`reading`.
    """
    session.rollback()
    session.expunge_all()


def count_runs(session: Session, since: float, until: float, dags: Sequence[str]) -> int:
    """How many DAG runs :func:`runs_after` gives in all."""
    return int(session.query(DagRun.id).filter(*_in_range(since, until, dags)).count())


def runs_after(session: Session, last: int, since: float, until: float, dags: Sequence[str]) -> list[RunRow]:
    """The next DAG runs that had begun by the end of a stretch of time, and not ended before its beginning.

    Args:
        session: of :func:`reading`.
        last: number of the last one had; 0 at first.
        since: s since 1970.
        until: s since 1970.
        dags: only of these; all where it is empty.
    """
    found = (
        session.query(*_RUN)
        .filter(DagRun.id > last, *_in_range(since, until, dags))
        .order_by(DagRun.id)
        .limit(RUNS_TOGETHER)
    )
    return [_run_row(row) for row in found]


def run_again(session: Session, ident: int) -> RunRow | None:
    """A DAG run as it is now; ``None`` when it is gone.

    Args:
        session: of :func:`reading`.
        ident: its number.
    """
    row = session.query(*_RUN).filter(DagRun.id == ident).one_or_none()
    return None if row is None else _run_row(row)


# Airflow 2 calls it so; in 3 it may be none, where the run was triggered.
_IN_3 = not hasattr(DagRun, "execution_date")
_RUN = (
    DagRun.id,
    DagRun.dag_id,
    DagRun.run_id,
    DagRun.state,
    DagRun.start_date,
    DagRun.end_date,
    DagRun.clear_number,
    *((DagRun.logical_date, DagRun.run_after) if _IN_3 else (DagRun.execution_date,)),
)


def _run_row(row: Any) -> RunRow:
    ident, dag_id, run_id, state, start, end, cleared, *dates = row
    date = next(date for date in dates if date is not None)
    return RunRow(ident, dag_id, run_id, _text(state), start, end, date, cleared or 0)


def _in_range(since: float, until: float, dags: Sequence[str]) -> list[Any]:
    conditions: list[Any] = [
        or_(DagRun.start_date.is_(None), DagRun.start_date <= _moment(until)),
        or_(
            DagRun.end_date.is_(None),
            DagRun.end_date >= _moment(max(since - _AFTER_ITS_RUN, 0.0)),
            DagRun.state.notin_(_FINISHED),
        ),
    ]
    if dags:
        conditions.append(DagRun.dag_id.in_(dags))
    return conditions


def tries_of(session: Session, runs: Sequence[RunRow]) -> Iterator[list[list[TryRow]]]:
    """All tries of all tasks of some DAG runs, each task's together, a bounded number at a time.

    Args:
        session: of :func:`reading`.
        runs: of one page.
    """
    last: tuple[Any, ...] | None = None
    while True:
        latest = _tries(session, TaskInstance, runs, after=last, most=_TRIES_TOGETHER)
        if not latest:
            return
        first, last = last, _key(latest[-1])
        past = _tries(session, TaskInstanceHistory, runs, after=first, upto=last)
        wanted = {_key(row) for row in latest}
        together = sorted([*latest, *(row for row in past if _key(row) in wanted)], key=_key)
        yield [list(tries) for _, tries in groupby(together, key=_key)]


_key = attrgetter("dag_id", "run_id", "task_id", "map_index")


def _tries(
    session: Session,
    table: Any,
    runs: Sequence[RunRow],
    *,
    after: tuple[Any, ...] | None,
    upto: tuple[Any, ...] | None = None,
    most: int | None = None,
) -> list[TryRow]:
    place = (table.dag_id, table.run_id, table.task_id, table.map_index)
    by_dag = groupby(sorted(runs, key=attrgetter("dag_id")), key=attrgetter("dag_id"))
    of_runs = [
        and_(table.dag_id == dag_id, table.run_id.in_([run.run_id for run in some]))
        for dag_id, some in by_dag
    ]
    version = (table.dag_version_id,) if hasattr(table, "dag_version_id") else ()
    query = session.query(
        *place, table.try_number, table.state, table.start_date, table.end_date, table.hostname, *version
    ).filter(or_(*of_runs))
    if after is not None:
        query = query.filter(_beyond(place, after))
    if upto is not None:
        query = query.filter(~_beyond(place, upto))
    if most is not None:
        query = query.order_by(*place).limit(most)
    return [_try_row(row, past=table is TaskInstanceHistory) for row in query]


def _beyond(place: tuple[Any, ...], key: tuple[Any, ...]) -> Any:
    """Rows behind a key, in words that every database plans well; by its own order of texts, not Python's."""
    condition = place[-1] > key[-1]
    for column, value in reversed(list(zip(place[:-1], key[:-1], strict=True))):
        condition = or_(column > value, and_(column == value, condition))
    return condition


def _try_row(row: Any, *, past: bool) -> TryRow:
    dag_id, run_id, task_id, map_index, number, state, start, end, hostname, *version = row
    return TryRow(
        dag_id,
        run_id,
        task_id,
        map_index,
        number or 0,
        _text(state),
        start,
        end,
        hostname or "",
        version[0] if version else None,
        past,
    )


def _text(state: Any) -> str:
    return "" if state is None else str(getattr(state, "value", state))


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, timezone.utc)
