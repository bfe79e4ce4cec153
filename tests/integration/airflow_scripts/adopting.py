"""Kill a scheduler that has submitted events which no worker has taken, and start another."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from probe import all_is_done, dag_run, give, listener, listener_manager, run


def be_killed(mark: Path) -> None:
    """Submit an event of each kind while the worker is stopped, and die."""
    from airflow.utils.session import create_session

    listener_manager()
    listener().submit_callable(str)
    all_is_done()
    (worker,) = listener().executor.pids
    os.kill(worker, signal.SIGSTOP)
    mark.write_text(str(worker))
    with create_session() as session:
        one = dag_run(session)
        for state in ("running", "success"):
            one.state = state
            getattr(listener_manager().hook, f"on_dag_run_{state}")(dag_run=one, msg="")
        session.rollback()
    os.kill(os.getpid(), signal.SIGKILL)


def spools(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir()] if folder.exists() else []


def main() -> None:
    mark = Path(os.environ["SCRIPT_RESULT"] + ".pid")
    pid = os.fork()
    if pid == 0:
        be_killed(mark)
    os.waitpid(pid, 0)

    from airflow.jobs.job import Job

    from keepline.airflow.configuration import spool_folder

    before = spools(spool_folder())
    sys.argv = ["airflow", "scheduler"]
    listener_manager()
    began = time.monotonic()
    Job()
    seconds = time.monotonic() - began
    all_is_done()
    os.kill(int(mark.read_text()), signal.SIGKILL)
    own = listener().executor.spool
    after = spools(spool_folder())
    give(
        {
            "seconds": seconds,
            "folder": str(spool_folder()),
            "before": len(before),
            "after": after == [own.name],
        }
    )


if __name__ == "__main__":
    run(main)
