"""Building events with the provider's own listener and adapter, here, from what Airflow's database has."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from airflow.providers.openlineage.extractors import OperatorLineage
from airflow.providers.openlineage.plugins import listener as provider
from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter
from airflow.providers.openlineage.plugins.listener import OpenLineageListener
from openlineage.client.event_v2 import RunEvent

from keepline.airflow.reconcile.dags import selected
from keepline.airflow.reconcile.deciding import Kind
from keepline.errors import ReconcileError

_MOST_SAID = 300
_UNTOLD = "the reason isn't in Airflow's database"


class _Catching(OpenLineageAdapter):
    """Keeps the event that it is to emit."""

    _caught: RunEvent | None = None

    def emit(self, event: RunEvent) -> RunEvent:
        self._caught = event
        return event

    def taken(self) -> RunEvent | None:
        event, self._caught = self._caught, None
        return event


class _NothingToExtract:
    """In place of the extractors, which only the running task has something for."""

    def extract_metadata(self, *args: Any, **kwargs: Any) -> OperatorLineage:
        return OperatorLineage()


class _Heard(logging.LoggerAdapter):  # type: ignore[type-arg]
    """Keeps what the provider's listener catches and logs, in place of raising it."""

    said: str = ""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if level < logging.WARNING:
            return
        error = kwargs.get("exc_info")
        error = sys.exc_info()[1] if error is True else error
        text = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(msg) % args
        # Of a traceback, its end.
        self.said = " ".join(text.split())[-_MOST_SAID:]


class Builder(OpenLineageListener):
    """The provider's listener, without processes, threads and extractors: each hook's event is given back.

    So an event is what this version of the provider makes of it, but for what only the running task knew.
    """

    def __init__(self) -> None:
        super().__init__()
        self.adapter = _Catching()
        self.extractor_manager = _NothingToExtract()
        self._heard = _Heard(logging.getLogger(__name__), {})
        self.log = self.adapter._log = self._heard
        if hasattr(provider, "is_selective_lineage_enabled"):
            # Up to 2.19 it raises for tasks as Airflow 3 keeps them. Nothing else here uses the provider's.
            provider.is_selective_lineage_enabled = selected

    @property
    def executor(self) -> object:
        """Looked at, and only for whether there is one."""
        return self

    def submit_callable(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> None:  # noqa: A002
        """Call a method of the adapter, which the provider gives bound, or by its name from 2.20 on."""
        if isinstance(getattr(callable, "__self__", None), OpenLineageAdapter):
            callable(*args, **kwargs)
        else:
            getattr(self.adapter, str(args[0]))(*args[1:], **kwargs)

    def _execute(self, callable: Callable[[], None], *args: Any, **kwargs: Any) -> None:  # noqa: A002
        callable()

    def of_run(self, kind: Kind, dag_run: Any) -> RunEvent:
        """An event of a DAG run.

        Args:
            kind: its type.
            dag_run: as it was then, with its DAG.

        Raises:
            ReconcileError: the provider can't build it, or doesn't want it.
        """
        if kind is Kind.START:
            return self._built(self.on_dag_run_running, dag_run, "")
        if kind is Kind.COMPLETE:
            return self._built(self.on_dag_run_success, dag_run, "success")
        failed = any(one.state == "failed" for one in dag_run.get_task_instances(state=["failed"]))
        return self._built(self.on_dag_run_failed, dag_run, "task_failure" if failed else _UNTOLD)

    def of_try(self, kind: Kind, task_instance: Any, dag_run: Any, dag: Any, task: Any) -> RunEvent:
        """An event of a try of a task.

        Args:
            kind: its type.
            task_instance: as it was then.
            dag_run: its DAG run.
            dag: its DAG.
            task: itself.

        Raises:
            ReconcileError: the provider can't build it, or doesn't want it.
        """
        if kind is Kind.START:
            start = task_instance.start_date
            return self._built(self._on_task_instance_running, task_instance, dag, dag_run, task, start)
        if kind is Kind.FAIL:
            return self._built(self._on_task_instance_failed, task_instance, dag, dag_run, task, None)
        skipped = task_instance.state == "skipped"
        hook = self._on_task_instance_skipped if skipped else self._on_task_instance_success
        return self._built(hook, task_instance, dag, dag_run, task)

    def _built(self, hook: Callable[..., None], *args: Any) -> RunEvent:
        self._heard.said = ""
        try:
            hook(*args)
        except Exception as error:
            raise ReconcileError(f"{type(error).__name__}: {error}") from error
        event = self.adapter.taken()
        if event is None:
            raise ReconcileError(self._heard.said or "the provider has built no event")
        return event
