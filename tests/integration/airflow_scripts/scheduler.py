"""Make a job, as a component of Airflow does when it starts; tell what that did for the outbox.

Arguments: those of the component's command line, and whether to do it in a child of multiprocessing.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from typing import Any

from probe import argument, give, listener, listener_manager, run


def begin() -> dict[str, Any]:
    import psutil
    from airflow.jobs.job import Job

    listener_manager()
    began = time.monotonic()
    Job()
    seconds = time.monotonic() - began
    # On SQLite the pool has its worker by now; it stays.
    workers = set(listener().executor.pids)
    children = [one for one in psutil.Process().children() if one.pid not in workers]
    # The next event collects what is left of the process that started the relay.
    psutil.wait_procs(children, timeout=0)
    deadline = time.monotonic() + 20
    while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    listener().submit_callable(str)
    left = [one.pid for one in children if one.is_running()]
    return {
        "seconds": seconds,
        "started": len(children),
        "left": left,
        "looked": "keepline.airflow.starting" in sys.modules,
    }


def in_a_child() -> dict[str, Any]:
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send(begin()))
    child.start()
    found: dict[str, Any] = mine.recv()
    child.join()
    return found


def main() -> None:
    words, child = argument(1), argument(2)
    sys.argv = ["airflow", *words]
    give(in_a_child() if child else begin())


if __name__ == "__main__":
    run(main)
