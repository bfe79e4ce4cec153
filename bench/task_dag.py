"""The DAG whose task bench/tasks.py runs; its process writes down what its hooks take, in seconds."""

from __future__ import annotations

import functools
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow.providers.openlineage.extractors.manager import ExtractorManager
from openlineage.client import OpenLineageClient

try:
    from airflow.sdk import DAG, BaseOperator
    from airflow.sdk.listener import get_listener_manager
except ImportError:
    from airflow import DAG
    from airflow.listeners.listener import get_listener_manager
    from airflow.models.baseoperator import BaseOperator

HOOKS = ("on_task_instance_running", "on_task_instance_success")
_began: dict[str, float] = {}


def note(what: str, seconds: float) -> None:
    with Path(os.environ["TASK_NOTES"]).open("a") as file:
        file.write(f"{what} {seconds}\n")


def before(name: str, *_: object) -> None:
    _began[name] = time.perf_counter()


def after(_: object, name: str, *__: object) -> None:
    if name in HOOKS:
        note(name, time.perf_counter() - _began[name])


def timed(owner: type, method: str) -> None:
    original = getattr(owner, method)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            note(method, time.perf_counter() - began)

    setattr(owner, method, call)


class Operator(BaseOperator):
    """Does nothing, and has lineage."""

    def execute(self, context: Any) -> None:
        """Nothing."""

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """One input and one output."""
        from airflow.providers.openlineage.extractors import OperatorLineage
        from openlineage.client.event_v2 import Dataset

        return OperatorLineage(inputs=[Dataset("file", "in")], outputs=[Dataset("file", "out")])


get_listener_manager().pm.add_hookcall_monitoring(before, after)
timed(ExtractorManager, "extract_metadata")
timed(OpenLineageClient, "emit")

with DAG("tasks", schedule=None, start_date=datetime(2020, 1, 1), catchup=False):
    Operator(task_id="task")
