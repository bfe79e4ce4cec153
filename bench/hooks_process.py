"""A process like a scheduler, for hooks.py: it runs in an Airflow environment and calls the listener's hooks.

Each line that it reads says how often: then every hook is called so often, in turns, with some work between
them, as a scheduler's loop has. It answers with one line of JSON: what each took, in microseconds.

    python hooks_process.py DAG_ID RUN_ID [floor]
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow.listeners.listener import get_listener_manager
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.providers.openlineage.plugins.listener import get_openlineage_listener
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import text

WORK_SECONDS = 0.001  # of the loop between two hooks: Python alone, and then a query
PAUSE_SECONDS = 0.01  # in which the loop waits for something; without it, two processors are simply busy


def hooks(session: Any, dag_id: str, run_id: str) -> dict[str, Callable[[], object]]:
    """What a scheduler calls, by a name for the table."""
    manager = get_listener_manager()
    session.autoflush = False
    run = session.query(DagRun).filter_by(dag_id=dag_id, run_id=run_id).one()
    run.dag = SerializedDagModel.get_dag(dag_id, session=session)
    run.start_date = run.end_date = run.queued_at
    task = run.get_task_instances(session=session)[0]
    task.task = run.dag.get_task(task.task_id)

    def of_run(state: str) -> Callable[[], object]:
        def call() -> None:
            run._state = state  # not by the property, which sets times
            getattr(manager.hook, f"on_dag_run_{state}")(dag_run=run, msg="")

        return call

    def by_hand(state: str) -> Callable[[], object]:
        error = {"error": "by hand"} if state == "failed" else {}
        try:
            from airflow.sdk.execution_time import task_runner  # noqa: F401
        except ImportError:  # Airflow 2 has the provider's method, and doesn't come to it
            method = get_openlineage_listener()._on_task_instance_manual_state_change
            return lambda: method(task, run, TaskInstanceState(state), **error)
        hook = getattr(manager.hook, f"on_task_instance_{state}")
        return lambda: hook(previous_state=TaskInstanceState.RUNNING, task_instance=task, **error)

    return {
        **{f"on_dag_run_{state}": of_run(state) for state in ("running", "success", "failed")},
        **{f"task {state} by hand": by_hand(state) for state in ("success", "failed")},
    }


def work(session: Any) -> None:
    """What a loop does between two hooks."""
    end = time.perf_counter() + WORK_SECONDS
    while time.perf_counter() < end:
        sum(range(200))
    session.execute(text("SELECT count(*) FROM dag_run")).scalar()


def memory() -> float:
    """Resident memory, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def block(session: Any, calls: dict[str, Callable[[], object]], times: int) -> dict[str, Any]:
    """Call every hook so often."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    loop, own = [], []
    cpu = time.process_time()
    for _ in range(times):
        for name, call in calls.items():
            used, began = time.thread_time_ns(), time.perf_counter_ns()
            call()
            called = time.perf_counter_ns()
            own.append((time.thread_time_ns() - used) / 1000)
            work(session)
            took[name].append((called - began) / 1000)
            loop.append((time.perf_counter_ns() - began) / 1000)
            time.sleep(PAUSE_SECONDS)
    return {"hooks": took, "own": own, "loop": loop, "cpu": time.process_time() - cpu, "memory": memory()}


def main() -> None:
    dag_id, run_id, *floor = sys.argv[1:]
    listener = get_openlineage_listener()
    if floor:  # what is common to all: the provider's own code, up to where it submits
        listener.submit_callable = lambda *_, **__: None
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Airflow logs there
    with create_session() as session:
        calls = hooks(session, dag_id, run_id)
        for line in sys.stdin:
            print(json.dumps(block(session, calls, int(line))), file=out, flush=True)
        session.rollback()
    os._exit(0)  # whatever waits is of no interest here


if __name__ == "__main__":
    main()
