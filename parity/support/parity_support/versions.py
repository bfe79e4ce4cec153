"""One name for what Airflow 2.11 and 3 keep in different places, and the DAG that all of ours are."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from airflow import __version__

AIRFLOW_2 = __version__.startswith("2.")

if AIRFLOW_2:
    from airflow import DAG
    from airflow.datasets import Dataset as Asset
    from airflow.decorators import task, task_group
    from airflow.exceptions import AirflowFailException, AirflowSkipException
    from airflow.models.baseoperator import BaseOperator
    from airflow.operators.bash import BashOperator
    from airflow.operators.empty import EmptyOperator
    from airflow.operators.python import BranchPythonOperator, PythonOperator, ShortCircuitOperator
    from airflow.operators.trigger_dagrun import TriggerDagRunOperator
    from airflow.sensors.date_time import DateTimeSensorAsync
    from airflow.sensors.python import PythonSensor
    from airflow.triggers.base import BaseTrigger, TriggerEvent
    from airflow.utils.edgemodifier import Label
    from airflow.utils.task_group import TaskGroup
else:
    from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
    from airflow.providers.standard.operators.bash import BashOperator
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.providers.standard.operators.python import (
        BranchPythonOperator,
        PythonOperator,
        ShortCircuitOperator,
    )
    from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
    from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
    from airflow.providers.standard.sensors.python import PythonSensor
    from airflow.sdk import DAG, Asset, BaseOperator, Label, TaskGroup, task, task_group
    from airflow.triggers.base import BaseTrigger, TriggerEvent

__all__ = [
    "AIRFLOW_2",
    "DAG",
    "AirflowFailException",
    "AirflowSkipException",
    "Asset",
    "BaseOperator",
    "BaseTrigger",
    "BashOperator",
    "BranchPythonOperator",
    "DateTimeSensorAsync",
    "EmptyOperator",
    "Label",
    "PythonOperator",
    "PythonSensor",
    "ShortCircuitOperator",
    "TaskGroup",
    "TriggerDagRunOperator",
    "TriggerEvent",
    "a_dag",
    "count",
    "task",
    "task_group",
    "wait_to_be_stopped",
]

LONG_AGO = datetime(2024, 1, 1, tzinfo=timezone.utc)


def a_dag(dag_id: str, **options: Any) -> DAG:
    """A DAG that runs when it is told to, unless ``options`` say otherwise."""
    options = {"schedule": None, "start_date": LONG_AGO, "catchup": False, "tags": ["parity"], **options}
    return DAG(dag_id, **options)


def count(name: str) -> int:
    """How often this was called with this name, in this Airflow."""
    file = Path(os.environ["AIRFLOW_HOME"]) / "counts" / name
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as out:
        out.write(".")
    return file.stat().st_size


def wait_to_be_stopped() -> None:
    """Work until the driver ends it from outside; a failure if it doesn't within five minutes."""
    import time

    time.sleep(300)
    raise TimeoutError("nobody stopped this task")
