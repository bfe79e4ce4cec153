"""A task of a run."""

from __future__ import annotations

from typing import Any

from airflow.models import TaskInstance

from tests_common.test_utils.dag import create_scheduler_dag
from tests_common.test_utils.version_compat import AIRFLOW_V_3_0_PLUS


def create_task_instance(task: Any, *, dag_version_id: object = None, **given: Any) -> TaskInstance:
    if not AIRFLOW_V_3_0_PLUS:
        return TaskInstance(task, **given)
    if task.has_dag():
        task = create_scheduler_dag(task.dag).get_task(task.task_id)
    return TaskInstance(task, dag_version_id=dag_version_id, **given)
