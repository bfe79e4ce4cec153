"""Have each kind of hook fail, and tell what it returned and what was logged."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from probe import argument, dag_run, give, listener_manager


class Broken:
    """Whatever is asked of it fails."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("s3cret in an error's text")


class Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.kept: list[list[Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING or record.exc_info:
            self.kept.append([record.levelname, record.getMessage(), bool(record.exc_info)])


def failures(database: Path) -> dict[str, Any]:
    """What to call, by what is wrong with it; the last one spoils the database."""
    from airflow.utils.session import create_session

    hook = listener_manager().hook
    session = create_session().__enter__()
    run = dag_run(session)

    def with_a_broken_task(name: str) -> list[Any]:
        spec = getattr(hook, name).spec.argnames
        given = {"previous_state": None, "task_instance": Broken(), "session": session, "error": "x"}
        return getattr(hook, name)(**{key: given[key] for key in spec})

    def without_a_database() -> list[Any]:
        database.write_bytes(b"no database, but so long that it might be one" * 100)
        session.expire_all()
        return hook.on_dag_run_success(dag_run=run, msg="")

    tasks = {
        name: lambda name=name: with_a_broken_task(name)
        for name in ("on_task_instance_running", "on_task_instance_success", "on_task_instance_failed")
    }
    return {
        **tasks,
        "a broken run": lambda: hook.on_dag_run_running(dag_run=Broken(), msg=""),
        "what can't be pickled": lambda: hook.on_dag_run_failed(dag_run=run, msg=threading.Lock()),
        "no database": without_a_database,
    }


def main() -> None:
    calls = failures(Path(argument(1)))
    records = Records()
    logging.getLogger().addHandler(records)
    for name in ("keepline", "airflow.providers.openlineage.plugins.listener"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    found = {}
    for name, call in calls.items():
        returned = call()
        found[name] = [returned, records.kept]
        records.kept = []
    give(found)


if __name__ == "__main__":
    main()
