"""Run a task as an executor does: in a process of its own, below its LocalTaskJob or its supervisor.

Arguments: the DAG's file, and the task's id.
"""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

from probe import argument, give, run

RUN = "run"
DATE = datetime(2026, 1, 1, tzinfo=timezone.utc)


def run_2(file: Path, task_id: str) -> dict[str, Any]:
    from airflow import settings
    from airflow.jobs.job import Job, run_job
    from airflow.jobs.local_task_job_runner import LocalTaskJobRunner
    from airflow.models.dagbag import DagBag
    from airflow.utils.session import create_session

    settings.configure_vars()  # a variant has a database of its own
    settings.configure_orm()
    (dag,) = DagBag(file, include_examples=False).dags.values()
    with create_session() as session:
        dag.sync_to_db(session=session)
        made = dag.create_dagrun(
            run_id=RUN,
            state="running",
            run_type="manual",
            execution_date=DATE,
            data_interval=(DATE, DATE),
            start_date=DATE,
            session=session,
        )
        one = made.get_task_instance(task_id, session=session)
        session.expunge_all()
    one.task = dag.get_task(task_id)
    runner = LocalTaskJobRunner(job=Job(dag_id=dag.dag_id), task_instance=one, ignore_all_deps=True)
    run_job(job=runner.job, execute_callable=runner._execute)
    one.refresh_from_db()
    return {"state": one.state, "asked": []}


def run_3(file: Path, task_id: str) -> dict[str, Any]:
    import httpx
    from airflow.sdk.api.client import Client
    from airflow.sdk.api.datamodels._generated import BundleInfo, TaskInstance
    from airflow.sdk.execution_time import supervisor

    asked: list[str] = []
    states: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.path}")
        if request.url.path.endswith("/run"):
            return httpx.Response(200, json=context())
        if request.url.path.endswith("/state"):
            states.append(json.loads(request.content)["state"])
        if request.url.path.startswith("/variables/"):
            name = request.url.path.rpartition("/")[2]
            time.sleep(float(name))  # its name says how long it takes, and is its value
            return httpx.Response(200, json={"key": name, "value": name})
        return httpx.Response(200, json={})

    one = TaskInstance(
        id=UUID("019ab000-0000-7000-8000-000000000001"),
        task_id=task_id,
        dag_id=file.stem,
        run_id=RUN,
        try_number=1,
        dag_version_id=UUID("019ab000-0000-7000-8000-000000000002"),
        queue="default",
        pool_slots=1,
        priority_weight=1,
    )
    supervise = getattr(supervisor, "supervise_task", None) or supervisor.supervise
    code = supervise(
        ti=one,
        bundle_info=BundleInfo(name="dags-folder", version=None),
        dag_rel_path=file.name,
        token="",
        client=Client(base_url=None, token="", dry_run=True, transport=httpx.MockTransport(answer)),
        subprocess_logs_to_stdout=True,
    )
    return {"state": states[-1] if states else None, "code": code, "asked": asked}


def context() -> dict[str, Any]:
    from airflow.sdk.api.datamodels._generated import DagRun

    run = {
        "dag_id": "tasks",
        "run_id": RUN,
        "logical_date": DATE.isoformat(),
        "data_interval_start": DATE.isoformat(),
        "data_interval_end": DATE.isoformat(),
        "start_date": DATE.isoformat(),
        "run_after": DATE.isoformat(),
        "run_type": "manual",
        "state": "running",
        "end_date": None,
        "partition_key": None,
        "consumed_asset_events": [],
    }
    run = {key: value for key, value in run.items() if key in DagRun.model_fields}  # each version has others
    return {"dag_run": run, "max_tries": 0, "should_retry": False, "task_reschedule_count": 0}


def main() -> None:
    try:
        import airflow.sdk  # noqa: F401
    except ImportError:
        run_one = run_2
    else:
        run_one = run_3
    give(run_one(Path(argument(1)), argument(2)))


if __name__ == "__main__":
    run(main)
