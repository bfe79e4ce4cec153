"""Let a hook go wrong while it has forked, or be interrupted; tell which processes came out of it, and how.

Argument: what goes wrong.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from probe import argument, dag_run, give, listener, listener_manager, run, task_instance


def note(what: str) -> Path:
    """The file of something that happened, perhaps in another process."""
    return Path(f"{os.environ['SCRIPT_RESULT']}.{what}")


class Handler(logging.Handler):
    """Fails where logging is shut down, as one that uploads can."""

    def close(self) -> None:
        raise RuntimeError("no upload")


def fail(error: BaseException) -> Any:
    raise error


def hang(**_: Any) -> None:
    note("child").write_text(str(os.getpid()))
    time.sleep(60)


def go_wrong(how: str) -> None:
    from airflow.exceptions import AirflowTaskTimeout
    from airflow.providers.openlineage.plugins import listener as provider

    if how == "before the event":
        provider.setproctitle = lambda *_: fail(RuntimeError("no title"))
    elif how == "an exit":
        listener().extractor_manager.extract_metadata = lambda **_: fail(SystemExit(3))
    elif how == "a log handler too":
        logging.getLogger().addHandler(Handler())
        provider.setproctitle = lambda *_: fail(RuntimeError("no title"))
    elif how == "a time limit":
        listener().extractor_manager.extract_metadata = hang
        signal.signal(signal.SIGALRM, lambda *_: fail(AirflowTaskTimeout("enough")))
        signal.setitimer(signal.ITIMER_REAL, 1.0)


def task_starts(session: Any) -> None:
    run = dag_run(session)
    task = task_instance(session, run)
    hook = listener_manager().hook.on_task_instance_running
    arguments = {"previous_state": None, "task_instance": task}
    if "session" in hook.spec.argnames:
        hook(session=session, **arguments)
        return
    context = {"dag_run": run, "dag": run.dag, "task": task.task}
    seen = SimpleNamespace(**{name: getattr(task, name) for name in ("dag_id", "task_id", "start_date")})
    seen.try_number, seen.map_index, seen.get_template_context = 1, -1, lambda: context
    seen.start_date = run.queued_at
    hook(**{**arguments, "task_instance": seen})


def run_starts(session: Any) -> None:
    run = dag_run(session)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as the scheduler does

    class Run:
        def __getattr__(self, name: str) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return getattr(run, name)

    listener_manager().hook.on_dag_run_running(dag_run=Run(), msg="")


def main() -> None:
    from airflow.utils.session import create_session

    listener_manager()
    owner, raised = os.getpid(), None
    go_wrong(argument(1))
    with create_session() as session:
        try:
            run_starts(session) if argument(1) == "an end of the scheduler" else task_starts(session)
        except BaseException as error:
            raised = type(error).__name__
        with note("out").open("a") as file:
            file.write(f"{os.getpid()}\n")
        session.rollback()
    if os.getpid() == owner:
        child = note("child")
        give(
            {
                "came out": [int(pid) == owner for pid in note("out").read_text().split()],
                "raised": raised,
                "child lives": child.exists() and Path(f"/proc/{child.read_text()}").exists(),
            }
        )


if __name__ == "__main__":
    run(main)
