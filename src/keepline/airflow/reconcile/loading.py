"""Airflow's own objects, as they were when an event of them was due; nothing of that is written back."""

from __future__ import annotations

from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from keepline.airflow.reconcile.dags import Dags, as_run
from keepline.airflow.reconcile.deciding import Kind
from keepline.airflow.reconcile.expecting import RunRow, TryRow

# What of a task instance is another one's with each try.
_OF_A_TRY = (
    "try_number",
    "start_date",
    "end_date",
    "duration",
    "hostname",
    "pid",
    "pool",
    "queue",
    "queued_dttm",
    "operator",
)
_ALL_OF_A_RUN = ("task_instances", "task_instances_histories")


class Loader:
    """Loads what the provider's listener is given.

    Args:
        session: to read with.
        dags: what is known of DAGs.
    """

    def __init__(self, session: Session, dags: Dags) -> None:
        self._session = session
        self._dags = dags

    def run(self, row: RunRow, kind: Kind) -> Any:
        """A DAG run with its DAG; ``None`` when it is gone.

        Args:
            row: the DAG run.
            kind: of the event.
        """
        dag_run = self._read(DagRun, id=row.id)
        if dag_run is None:
            return None
        dag_run.dag = self._dags.of_run(dag_run)
        if kind is Kind.START:
            _as_running(dag_run)
        else:
            # Past the property, which would set the dates too.
            dag_run._state, dag_run.end_date = row.state, row.end_at
        return dag_run

    def a_try(self, row: TryRow, run: RunRow, kind: Kind) -> tuple[Any, Any, Any, Any] | None:
        """A task instance, its DAG run, DAG and task; ``None`` when one of them is gone.

        Args:
            row: the try.
            run: its DAG run.
            kind: of the event.
        """
        found = self._read(TaskInstance, **_place(row))
        dag = self._dags.get(row.dag_id, row.version)
        if found is None or dag is None or not dag.has_task(row.task_id):
            return None
        if row.past:
            past = self._read(TaskInstanceHistory, **_place(row), try_number=row.number)
            if past is None:
                return None
            for name in _OF_A_TRY:
                setattr(found, name, getattr(past, name))
        if kind is Kind.START:
            found.state, found.end_date, found.duration = "running", None, None
        else:
            found.state, found.end_date = row.state, row.end_at
            if row.start_at is not None and row.end_at is not None:
                found.duration = (row.end_at - row.start_at).total_seconds()
        found.task = as_run(dag.get_task(row.task_id))
        dag_run = found.dag_run
        dag_run.dag = dag
        dag_run.clear_number = clear_number_then(row, run)
        _as_running(dag_run)
        # A task's process doesn't know them, and reading all of them for each would take long.
        for name in _ALL_OF_A_RUN:
            if hasattr(DagRun, name):
                set_committed_value(dag_run, name, [])
        return found, dag_run, dag, found.task

    def _read(self, table: Any, **key: Any) -> Any:
        # Anew, without what was put into an object for the sake of another event.
        return self._session.query(table).populate_existing().filter_by(**key).one_or_none()


def _as_running(dag_run: Any) -> None:
    dag_run._state, dag_run.end_date = "running", None


def _place(row: TryRow) -> dict[str, Any]:
    return {"dag_id": row.dag_id, "run_id": row.run_id, "task_id": row.task_id, "map_index": row.map_index}


def clear_number_then(row: TryRow, run: RunRow) -> int:
    """How often its DAG run had been cleared when a try was made.

    The database has only when the DAG run began for the last time: a try from before that belongs to the life
    before, or to an earlier one, which can't be told.

    Args:
        row: the try.
        run: its DAG run.
    """
    began = row.start_at or row.end_at
    earlier = (
        row.past
        and run.clear_number > 0
        and began is not None
        and (run.start_at is None or began < run.start_at)
    )
    return run.clear_number - 1 if earlier else run.clear_number
