"""Emit events of DAG runs, and of tasks whose state was changed by hand; tell what that took in the pool.

Arguments: how many rounds of five events, and a run id.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import Future, wait
from functools import wraps
from pathlib import Path
from typing import Any

from probe import all_is_done, argument, dag_run, give, listener, listener_manager, task_instance

MADE = Path(os.environ["SCRIPT_RESULT"] + ".made")


def note(what: str) -> None:
    """Write down, from whatever process, what has happened in it."""
    with MADE.open("a") as file:
        file.write(f"{os.getpid()} {what}\n")


def noted(owner: type, method: str, what: str) -> None:
    """Have every call of a method written down, in the workers too, which are forked."""
    original = getattr(owner, method)

    @wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        note(what)
        return original(*args, **kwargs)

    setattr(owner, method, call)


def pool_pids() -> list[int]:
    pool = listener().executor
    return list(pool.pids if hasattr(pool, "pids") else pool._processes)


def emit(rounds: int, run_id: str) -> list[Future[Any]]:
    from airflow.utils.session import create_session

    one, futures = listener(), []
    submit = one.submit_callable
    one.submit_callable = lambda *args, **kwargs: futures.append(submit(*args, **kwargs))
    hook = listener_manager().hook
    with create_session() as session:
        run = dag_run(session, run_id)
        task = task_instance(session, run)
        for _ in range(rounds):
            for state in ("running", "success", "failed"):
                run.state = state
                run.end_date = run.queued_at  # the same in each process; it was set to now
                getattr(hook, f"on_dag_run_{state}")(dag_run=run, msg=state)
            for state in ("failed", "success"):
                change_by_hand(task, run, state)
        session.rollback()
    return futures


def change_by_hand(task: Any, run: Any, state: str) -> None:
    from airflow.utils.state import TaskInstanceState

    error = {"error": "by hand"} if state == "failed" else {}
    hook = getattr(listener_manager().hook, f"on_task_instance_{state}")
    try:
        from airflow.sdk.execution_time import task_runner  # noqa: F401
    except ImportError:  # Airflow 2 has the provider's method, and doesn't come to it
        listener()._on_task_instance_manual_state_change(task, run, TaskInstanceState(state), **error)
    else:
        hook(previous_state=TaskInstanceState.RUNNING, task_instance=task, **error)


def main() -> None:
    import psutil
    from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter
    from openlineage.client import OpenLineageClient

    noted(OpenLineageAdapter, "__init__", "adapter")
    noted(OpenLineageClient, "__init__", "client")
    noted(OpenLineageClient, "close", "close")
    listener_manager()
    futures = emit(argument(1), argument(2))
    done, _ = wait(futures, timeout=60)
    if hasattr(listener().executor, "pending"):  # Keepline's: a future is done when its call is accepted
        all_is_done()
    pids = pool_pids()
    threads = [psutil.Process(pid).num_threads() for pid in pids]
    listener_manager().hook.before_stopping(component=object())
    made = [line.split() for line in MADE.read_text().splitlines()]
    give(
        {
            "events": len(futures),
            "errors": [repr(one.exception()) for one in done if one.exception()],
            "threads": threads,
            "workers": [Counter(what for at, what in made if int(at) == pid) for pid in pids],
            "alive": [pid for pid in pids if psutil.pid_exists(pid)],
        }
    )


if __name__ == "__main__":
    main()
