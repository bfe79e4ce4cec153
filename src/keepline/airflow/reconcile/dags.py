"""DAGs as Airflow keeps them in its database, and whether the provider emits events of them."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import Any

from airflow.models.serialized_dag import SerializedDagModel
from airflow.providers.openlineage.plugins import listener as provider
from airflow.providers.openlineage.utils import utils
from airflow.providers.openlineage.utils.selective_enable import (
    is_dag_lineage_enabled,
    is_task_lineage_enabled,
)
from sqlalchemy.orm import Session

_KEPT = 16
# What the provider asks every task for, and mapped ones of Airflow 3's database don't have, or lose.
_CLASS = ("_task_module", "_task_type")
_DOCUMENTATION = ("doc", "doc_md", "doc_json", "doc_yaml", "doc_rst")

_Dag = Any
_BY_VERSION = hasattr(SerializedDagModel, "dag_version_id")


class Dags:
    """The latest of them that were asked for, and what was found of all of them.

    Args:
        session: to read with.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._dags: OrderedDict[tuple[str, object], _Dag] = OrderedDict()
        self._run_emits: dict[tuple[str, object], bool] = {}
        self._task_emits: dict[tuple[str, object, str], bool | None] = {}

    def get(self, dag_id: str, version: object = None) -> _Dag:
        """A DAG without its code, as the scheduler has it; ``None`` where the database has none.

        Args:
            dag_id: of the DAG.
            version: from Airflow 3 on; the latest where there is none, or where it is gone.
        """
        key = (dag_id, version)
        if key in self._dags:
            self._dags.move_to_end(key)
            return self._dags[key]
        dag = self._read(dag_id, version)
        self._dags[key] = dag
        while len(self._dags) > _KEPT:
            self._dags.popitem(last=False)
        return dag

    def _read(self, dag_id: str, version: object) -> _Dag:
        row = None
        if version is not None and _BY_VERSION:
            row = self._session.query(SerializedDagModel).filter_by(dag_version_id=version).first()
        if row is None:
            row = SerializedDagModel.get(dag_id, session=self._session)
        if row is None:
            return None
        row.load_op_links = False  # They are what plugins bring, and no event has them.
        return row.dag

    def of_run(self, dag_run: Any) -> _Dag:
        """The DAG that the scheduler gives to a DAG run, in whose bundle's version it began.

        Args:
            dag_run: the DAG run.
        """
        pinned = getattr(dag_run, "bundle_version", None)
        return self.get(dag_run.dag_id, getattr(dag_run, "created_dag_version_id", None) if pinned else None)

    def run_emits(self, dag_id: str, version: object = None) -> bool:
        """Whether the provider emits events of a DAG's runs.

        Args:
            dag_id: of the DAG.
            version: as for :meth:`get`.
        """
        key = (dag_id, version)
        if key not in self._run_emits:
            self._run_emits[key] = _run_emits(dag_id, self.get(dag_id, version))
        return self._run_emits[key]

    def task_emits(self, dag_id: str, version: object, task_id: str) -> bool | None:
        """Whether the provider emits events of a task; ``None`` where no DAG has it any more.

        Args:
            dag_id: of its DAG.
            version: as for :meth:`get`.
            task_id: of the task.
        """
        key = (dag_id, version, task_id)
        if key not in self._task_emits:
            dag = self.get(dag_id, version)
            there = dag is not None and dag.has_task(task_id)
            self._task_emits[key] = _task_emits(dag.get_task(task_id)) if there else None
        return self._task_emits[key]


def _run_emits(dag_id: str, dag: _Dag) -> bool:
    resolve = getattr(provider, "resolve_dag_emission_policy", None)
    if resolve is not None:
        return bool(resolve(dag_id, dag=dag).emit)
    return dag is None or selected(dag)


def _task_emits(task: Any) -> bool:
    resolve = getattr(provider, "resolve_task_emission_policy", None)
    if resolve is not None:
        return bool(resolve(operator=task, dag_id=task.dag_id, task_id=task.task_id).emit)
    return not utils.is_operator_disabled(task) and selected(task)


def selected(found: Any) -> bool:
    """Whether a DAG or task is selected, or all are; as the provider says it where it knows what it is asked.

    Up to 2.19 it doesn't know tasks as Airflow 3 keeps them in its database.

    Args:
        found: a DAG or a task.
    """
    try:
        return bool(utils.is_selective_lineage_enabled(found))
    except TypeError:
        enabled = is_dag_lineage_enabled if hasattr(found, "task_dict") else is_task_lineage_enabled
        return bool(enabled(found))


def as_run(task: Any) -> Any:
    """A task as its process has it, as far as that can be told: one that is mapped looks like one that isn't.

    Args:
        task: of a DAG out of the database.
    """
    if not getattr(task, "is_mapped", False):
        return task
    # Airflow up to 3.0 makes what looks like the operator. Later ones keep that to the task's process.
    with suppress(Exception):
        found = task.unmap(None)
        for name in _CLASS:
            if not hasattr(found, name):
                setattr(found, name, getattr(task, name))
        return found
    given = getattr(task, "partial_kwargs", {})
    for name in _DOCUMENTATION:
        if not hasattr(task, name):
            setattr(task, name, given.get(name))
    return task
