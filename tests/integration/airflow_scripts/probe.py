"""What the scripts share. They run inside an Airflow environment, one process each."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

faulthandler.dump_traceback_later(60)  # of a script that hangs, before its test gives it up


def argument(position: int, default: Any = None) -> Any:
    """An argument of the script, which is JSON."""
    return json.loads(sys.argv[position]) if len(sys.argv) > position else default


def give(result: Any) -> None:
    """Hand the script's result to the test."""
    Path(os.environ["SCRIPT_RESULT"]).write_text(json.dumps(result))


def run(main: Callable[[], None]) -> None:
    """Run a script: once, or for each of the variants that the test hands over, in a child that is forked.

    A variant has arguments, variables and a log of its own. Airflow is imported only once; no plugin is.
    """
    variants = json.loads(os.environ.pop("SCRIPT_VARIANTS", "null"))
    if variants is None:
        main()
        return
    import airflow.plugins_manager  # noqa: F401

    for variant in variants:
        pid = os.fork()
        if pid == 0:
            _run_variant(main, variant)
        os.waitpid(pid, 0)


def _run_variant(main: Callable[[], None], variant: dict[str, Any]) -> None:
    log = os.open(variant["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(variant["env"])
    sys.argv[1:] = variant["args"]
    try:
        main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


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


def all_is_done(timeout: float = 60) -> None:
    """Wait until the listener's pool has nothing left to do."""
    pool = listener().executor
    deadline = time.monotonic() + timeout
    while pool.pending:
        assert time.monotonic() < deadline, "calls are left"
        time.sleep(0.01)
