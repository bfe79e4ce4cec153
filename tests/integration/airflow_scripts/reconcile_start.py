"""Make a job in a child, as a component of Airflow does when it starts; tell how a reconciliation fares.

Arguments: those of the component's command line.
"""

from __future__ import annotations

import os
import sys
import time

from probe import argument, give, listener_manager


def main() -> None:
    import psutil
    from airflow.jobs.job import Job

    sys.argv = ["airflow", *argument(1)]
    listener_manager()
    scheduler = os.fork()
    if scheduler == 0:
        Job()
        os.kill(os.getpid(), 19)  # SIGSTOP: it stays until it is killed
    os.waitpid(scheduler, os.WUNTRACED)
    found = [
        one.pid
        for one in psutil.Process(scheduler).children()
        if any("keepline.airflow.reconcile.beside" in word for word in one.cmdline())
    ]
    os.kill(scheduler, 9)
    os.waitpid(scheduler, 0)
    deadline = time.monotonic() + 40
    while any(map(psutil.pid_exists, found)) and time.monotonic() < deadline:
        time.sleep(0.05)
    give({"started": len(found), "left": [pid for pid in found if psutil.pid_exists(pid)]})


if __name__ == "__main__":
    main()
