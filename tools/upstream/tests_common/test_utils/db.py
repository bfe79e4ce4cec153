"""An empty database."""

from __future__ import annotations

from airflow.models import DagModel, DagRun, TaskInstance
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils.session import create_session


def clear_db_runs() -> None:
    with create_session() as session:
        for model in (TaskInstance, DagRun, SerializedDagModel, DagModel):
            session.query(model).delete()
