"""Airflow's REST API as far as the driver needs it: version 1 in Airflow 2.11, version 2 in Airflow 3."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

_SECONDS = 180.0
_TRIES = 5


class ApiError(Exception):
    """The API refused; the message has what it said."""


class Api:
    """A client of one Airflow.

    Args:
        url: where it listens.
        is_2: whether it is Airflow 2.11.
    """

    def __init__(self, url: str, *, is_2: bool) -> None:
        self._url = url
        self._is_2 = is_2
        self._direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._token = "" if is_2 else self._call("GET", "/auth/token")["access_token"]

    def trigger(self, dag_id: str, run_id: str, logical_date: str, conf: object = None) -> None:
        """Start a run."""
        body = {"dag_run_id": run_id, "logical_date": logical_date, "conf": conf or {}}
        self._dag("POST", dag_id, "/dagRuns", body)

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        """Set the state of a run."""
        self._dag("PATCH", dag_id, f"/dagRuns/{quote(run_id)}", {"state": state})

    def set_task_state(
        self, dag_id: str, run_id: str, task_id: str, state: str, *, downstream: bool = False
    ) -> None:
        """Set the state of a task.

        Args:
            dag_id: of its DAG.
            run_id: of the run.
            task_id: of the task.
            state: the new one.
            downstream: also of the tasks after it, with all their instances when they are mapped.
        """
        if self._is_2:
            body = {
                "dry_run": False,
                "task_id": task_id,
                "dag_run_id": run_id,
                "new_state": state,
                "include_upstream": False,
                "include_downstream": downstream,
                "include_future": False,
                "include_past": False,
            }
            self._dag("POST", dag_id, "/updateTaskInstancesState", body)
        else:
            path = f"/dagRuns/{quote(run_id)}/taskInstances/{quote(task_id)}"
            self._dag("PATCH", dag_id, path, {"new_state": state, "include_downstream": downstream})

    def clear(self, dag_id: str, run_id: str, task_ids: list[str]) -> None:
        """Have tasks of a run that has ended run again."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": task_ids,
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self._dag("POST", dag_id, "/clearTaskInstances", body)

    def backfill(self, dag_id: str, first: str, last: str) -> None:
        """Have runs made for a span of time; Airflow 3 only."""
        body = {"dag_id": dag_id, "from_date": first, "to_date": last, "reprocess_behavior": "none"}
        self._call("POST", "/api/v2/backfills", body)

    def _dag(self, method: str, dag_id: str, path: str, body: object) -> Any:
        return self._call(method, f"/api/{'v1' if self._is_2 else 'v2'}/dags/{quote(dag_id)}{path}", body)

    def _call(self, method: str, path: str, body: object = None) -> Any:
        for _ in range(_TRIES - 1):
            try:
                return self._once(method, path, body)
            except ApiError as error:
                # SQLite's lock wasn't had in time, upstream or not: all of the request was rolled back.
                if "Database error" not in str(error):
                    raise
        return self._once(method, path, body)

    def _once(self, method: str, path: str, body: object) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if getattr(self, "_token", ""):
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        try:
            with self._direct.open(request, timeout=_SECONDS) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:2000]
            raise ApiError(f"{method} {path} was answered {error.code}: {said}") from None
