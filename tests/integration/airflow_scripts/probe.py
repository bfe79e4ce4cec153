"""What the scripts share. They run inside an Airflow environment, one process each."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def argument(position: int, default: Any = None) -> Any:
    """An argument of the script, which is JSON."""
    return json.loads(sys.argv[position]) if len(sys.argv) > position else default


def give(result: Any) -> None:
    """Hand the script's result to the test."""
    Path(os.environ["SCRIPT_RESULT"]).write_text(json.dumps(result))


def listener_manager() -> Any:
    """The core's listener manager; loads the plugins, as the first job of a process does."""
    from airflow.listeners.listener import get_listener_manager

    return get_listener_manager()


def listener() -> Any:
    """The listener that everybody gets."""
    from airflow.providers.openlineage.plugins.listener import get_openlineage_listener

    return get_openlineage_listener()


def dag_run(session: Any, run_id: str = "run-0000") -> Any:
    """A run of the DAG ``lineage`` as the scheduler has it; nothing of it is written back."""
    from airflow.models.dagrun import DagRun
    from airflow.models.serialized_dag import SerializedDagModel

    session.autoflush = False
    run = session.query(DagRun).filter_by(dag_id="lineage", run_id=run_id).one()
    run.dag = SerializedDagModel.get_dag("lineage", session=session)
    run.start_date = run.queued_at
    return run


def task_instance(session: Any, run: Any) -> Any:
    """A task of the run, as the scheduler has it when its state was changed by hand."""
    one = next(ti for ti in run.get_task_instances(session=session) if ti.task_id == "group.first")
    one.task = run.dag.get_task(one.task_id)
    return one
