"""The DAG ``tasks``, whose operators' extraction goes wrong; each writes down what happens, and where."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

try:
    from airflow.sdk import DAG, BaseOperator, Variable
except ImportError:
    from airflow import DAG
    from airflow.models import Variable
    from airflow.models.baseoperator import BaseOperator

EXTRACTED = threading.Event()


def note(what: str) -> None:
    with Path(os.environ["TASK_NOTES"]).open("a") as file:
        file.write(f"{os.getpid()} {what}\n")


os.register_at_fork(after_in_parent=lambda: note("forks"))


def wait_for_emitters() -> None:
    """Let what was given up come to its end."""
    for thread in threading.enumerate():
        if thread.name.startswith("openlineage-"):
            thread.join(60)


def lineage() -> Any:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import Dataset

    return OperatorLineage(inputs=[Dataset("file", "Straße")], outputs=[Dataset("file", "out")])


class Plain(BaseOperator):
    """Has lineage, and nothing goes wrong."""

    def execute(self, context: Any) -> None:
        note("executes")

    def get_openlineage_facets_on_start(self) -> Any:
        return lineage()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        return lineage()


class Hangs(Plain):
    def get_openlineage_facets_on_start(self) -> Any:
        note("hangs")
        time.sleep(600)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        note("hangs")
        time.sleep(600)


class Raises(Plain):
    """Raises what goes past an `except Exception`."""

    def get_openlineage_facets_on_start(self) -> Any:
        sys.exit("no extractor")

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        raise KeyboardInterrupt


class Late(Plain):
    """Its START takes longer than the time limit, and less than the task."""

    def execute(self, context: Any) -> None:
        note("executes")
        EXTRACTED.set()
        wait_for_emitters()

    def get_openlineage_facets_on_start(self) -> Any:
        EXTRACTED.wait(60)
        return lineage()


class Terminated(Plain):
    """Gets a SIGTERM while it emits, as from who wants the task to end."""

    def execute(self, context: Any) -> None:
        note("executes")

    def on_kill(self) -> None:
        note("is killed")

    def get_openlineage_facets_on_start(self) -> Any:
        note("hangs")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)


class Asks(Plain):
    """Asks for a variable, which takes 8 s, and is given up; the task asks for others meanwhile."""

    def execute(self, context: Any) -> None:
        note("executes")
        note(" ".join(f"{number}={Variable.get(number)}" for number in ("0.1", "0.2")))
        wait_for_emitters()

    def get_openlineage_facets_on_start(self) -> Any:
        note("hangs")
        note(f"8={Variable.get('8')}")
        return lineage()


with DAG("tasks", schedule=None, start_date=datetime(2020, 1, 1), catchup=False):
    Plain(task_id="plain")
    Hangs(task_id="hangs")
    Raises(task_id="raises")
    Late(task_id="late")
    Terminated(task_id="terminated")
    Asks(task_id="asks")
