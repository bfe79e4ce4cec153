"""The comparison: DAG runs and tries of tasks, a page at a time, with what the outbox knows of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterable, Sequence
from typing import NamedTuple

from airflow.listeners.listener import get_listener_manager
from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter
from openlineage.client.event_v2 import RunEvent
from sqlalchemy.orm import Session

from keepline.airflow.reconcile import database
from keepline.airflow.reconcile.building import Builder
from keepline.airflow.reconcile.dags import Dags
from keepline.airflow.reconcile.deciding import NOTHING, Decision, Emission, Expected, Kind, Window, decide
from keepline.airflow.reconcile.emitting import Emitter
from keepline.airflow.reconcile.expecting import RunRow, TryRow, due_of_run, due_of_tries
from keepline.airflow.reconcile.loading import Loader
from keepline.airflow.reconcile.report import Report
from keepline.errors import OutboxError, ReconcileError
from keepline.outbox.known import Known, KnownRuns

log = logging.getLogger(__name__)

_SKIPPED = "on_task_instance_skipped"
_NONE = Known()


class _Subject(NamedTuple):
    """What events are of: a DAG run, or a try of a task of one."""

    run: RunRow
    a_try: TryRow | None
    expected: Expected


class Work:
    """Compares, and emits what is missing.

    Args:
        session: to read Airflow's database with.
        known: what the outbox knows.
        window: which events are looked at.
        under_way: OpenLineage run ids; of these runs nothing is emitted yet.
        dags: only of these; of all where it is empty.
        emitter: of events.
        report: where to count.
    """

    def __init__(
        self,
        session: Session,
        known: KnownRuns,
        window: Window,
        under_way: Container[str],
        dags: Sequence[str],
        emitter: Emitter,
        report: Report,
    ) -> None:
        self._session = session
        self._known = known
        self._window = window
        self._under_way = under_way
        self._only = dags
        self._emitter = emitter
        self._report = report
        self._dags = Dags(session)
        self._loader = Loader(session, self._dags)
        self._builder = Builder()
        self._ends_skipped = ends_skipped()

    def count(self) -> int:
        """How many DAG runs there are to look at."""
        return database.count_runs(self._session, self._window.since, self._window.until, self._only)

    def run(self, *, done: Callable[[int], None], stop: Callable[[], bool]) -> None:
        """Do all of it.

        Args:
            done: called with the number of DAG runs looked at since the last call.
            stop: whether to end before the next page.

        Raises:
            ReconcileError: the database can't be read.
            KeeplineError: an event can't be appended; what was appended before stays so.
        """
        last = 0
        while not stop():
            page = database.runs_after(
                self._session, last, self._window.since, self._window.until, self._only
            )
            if not page:
                return
            self._compare(page)
            database.fresh(self._session)
            last = page[-1].id
            done(len(page))

    def _compare(self, page: list[RunRow]) -> None:
        began: set[str] = set()
        runs = [_of_run(row) for row in page]
        decided = self._decide(runs)
        self._report.dag_runs += len(runs)
        # The start of a DAG run before its tasks, and its end behind them.
        for subject, decision in decided:
            self._emit(subject, decision, [one for one in decision.emit if one.kind is Kind.START], began)
        for tries in self._tries(page):
            self._report.tries += len(tries)
            for subject, decision in self._decide(tries):
                self._emit(subject, decision, decision.emit, began)
            database.fresh(self._session)
        for subject, decision in decided:
            self._emit(subject, decision, [one for one in decision.emit if one.kind is not Kind.START], began)
        if began:
            self._end_what_ended_meanwhile(page, began)

    def _tries(self, page: list[RunRow]) -> Iterable[list[_Subject]]:
        runs = {(run.dag_id, run.run_id): run for run in page}
        for some in database.tries_of(self._session, page):
            yield [
                _of_try(row, runs[row.dag_id, row.run_id], due.start_at, due.end_at, due.end)
                for tries in some
                for row, due in due_of_tries(tries, ends_skipped=self._ends_skipped)
            ]

    def _decide(self, subjects: list[_Subject]) -> list[tuple[_Subject, Decision]]:
        known = self._known.of(subject.expected.run_id for subject in subjects)
        found = []
        for subject in subjects:
            decision = decide(subject.expected, known.get(subject.expected.run_id, _NONE), self._window)
            if decision is NOTHING or not self._emits(subject):
                continue
            if subject.expected.run_id in self._under_way:
                self._report.under_way += 1
                continue
            self._report.decided(subject.run.dag_id, decision)
            found.append((subject, decision))
        return found

    def _emits(self, subject: _Subject) -> bool:
        row = subject.a_try
        if row is None:
            emits: bool | None = self._dags.run_emits(subject.run.dag_id)
        else:
            emits = self._dags.task_emits(row.dag_id, row.version, row.task_id)
            self._report.gone += emits is None
        return bool(emits) and self._emitter.wants(subject.expected.job)

    def _emit(
        self, subject: _Subject, decision: Decision, emissions: Iterable[Emission], began: set[str]
    ) -> None:
        for one in emissions:
            if not self._report.dry_run:
                try:
                    event = self._build(subject, one.kind)
                    self._emitter.emit(event, subject.expected, decision, one, time.time())
                except OutboxError:
                    raise
                except Exception as error:  # whatever the provider, the client or a custom facet raises
                    self._report.could_not(f"{one.kind.value} of {_named(subject)}", error)
                    continue
            self._report.emitted += 1
            self._report.repeated += one.repeated
            if subject.expected.end is None and not self._report.dry_run:
                began.add(subject.expected.run_id)

    def _build(self, subject: _Subject, kind: Kind) -> RunEvent:
        gone = ReconcileError("it is gone from the database")
        if subject.a_try is None:
            dag_run = self._loader.run(subject.run, kind)
            if dag_run is None:
                raise gone
            return self._builder.of_run(kind, dag_run)
        loaded = self._loader.a_try(subject.a_try, subject.run, kind)
        if loaded is None:
            raise gone
        task_instance, dag_run, dag, task = loaded
        return self._builder.of_try(kind, task_instance, dag_run, dag, task)

    def _end_what_ended_meanwhile(self, page: list[RunRow], began: set[str]) -> None:
        """Look again at what has got a START here: the hook's end of it may have come before that."""
        database.fresh(self._session)
        again = [row for run in page if (row := database.run_again(self._session, run.id)) is not None]
        subjects = [_of_run(row) for row in again]
        for tries in self._tries(again):
            subjects += [subject for subject in tries if subject.expected.run_id in began]
        for subject in subjects:
            end = subject.expected.end
            if subject.expected.run_id in began and end is not None:
                one = Emission(end, repeated=True)
                self._emit(subject, Decision((Kind.START,), (one,)), [one], set())


def _of_run(row: RunRow) -> _Subject:
    due = due_of_run(row)
    ident = OpenLineageAdapter.build_dag_run_id(
        dag_id=row.dag_id, logical_date=row.date, clear_number=row.clear_number
    )
    return _Subject(row, None, Expected(ident, row.dag_id, row.state, due.start_at, due.end_at, due.end))


def _of_try(
    row: TryRow, run: RunRow, start_at: float | None, end_at: float | None, end: Kind | None
) -> _Subject:
    ident = OpenLineageAdapter.build_task_instance_run_id(
        dag_id=row.dag_id,
        task_id=row.task_id,
        try_number=row.number,
        logical_date=run.date,
        map_index=row.map_index,
    )
    job = f"{row.dag_id}.{row.task_id}"
    return _Subject(run, row, Expected(ident, job, row.state, start_at, end_at, end))


def _named(subject: _Subject) -> str:
    row = subject.a_try
    if row is None:
        return f"{subject.run.dag_id} {subject.run.run_id}"
    mapped = f"[{row.map_index}]" if row.map_index >= 0 else ""
    return f"{row.dag_id}.{row.task_id}{mapped} {row.run_id}, try {row.number}"


def ends_skipped() -> bool:
    """Whether both this Airflow and the provider know an event for the end of a task that skips itself."""
    told = getattr(get_listener_manager().hook, _SKIPPED, None)
    return told is not None and told.has_spec() and hasattr(Builder, _SKIPPED)
