"""Emit in threads without any task; tell what became of each.

Argument: what to try.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

from probe import argument, give, run

GO = threading.Event()


def raised(call: Callable[[], object]) -> str | None:
    try:
        call()
    except BaseException as error:
        return type(error).__name__
    return None


def wait_for_emitters() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("openlineage-"):
            thread.join(60)


def overtaken() -> list[str]:
    """An earlier event that is ready after a later one."""
    from keepline.airflow import tasks

    emitted: list[str] = []
    adapter_emit = tasks.in_turn(emitted.append)

    def complete() -> None:
        adapter_emit("COMPLETE")
        GO.set()

    tasks.emit(lambda: GO.wait(60) and adapter_emit("START"), "on_running")
    tasks.emit(complete, "on_success")
    wait_for_emitters()
    adapter_emit("of another thread")
    return emitted


def crowd() -> dict[str, Any]:
    """More extractions that hang than may, and one when they have come to an end."""
    from keepline.airflow import tasks

    emitted: list[int] = []
    before = [raised(lambda: tasks.emit(lambda: GO.wait(60), "on_running")) for _ in range(5)]
    GO.set()
    wait_for_emitters()
    after = raised(lambda: tasks.emit(lambda: emitted.append(1), "on_running"))
    wait_for_emitters()
    return {"before": before, "after": after, "emitted": emitted}


def context() -> str:
    from keepline.airflow import tasks

    found: list[str] = []
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("the task's")
    tasks.emit(lambda: found.append(variable.get()), "on_running")
    wait_for_emitters()
    return found[0]


def session() -> dict[str, Any]:
    """The database session of who waits, and the thread's own."""
    from airflow.models import DagModel
    from airflow.utils.session import create_session

    from keepline.airflow import tasks

    found: dict[str, Any] = {}

    def use() -> None:
        found["shared"] = raised(lambda: shared.query(DagModel).count())
        with create_session() as own:
            found["the thread's"] = raised(lambda: own.query(DagModel).count())

    with create_session() as shared:
        tasks.emit(use, "on_failure")
        wait_for_emitters()
        found["the owner's"] = raised(lambda: shared.query(DagModel).count())
    return found


def chosen() -> bool:
    from keepline.airflow import tasks

    return tasks.by_thread()


def main() -> None:
    tries = (overtaken, crowd, context, session, chosen)
    give({one.__name__: one for one in tries}[argument(1)]())


if __name__ == "__main__":
    run(main)
