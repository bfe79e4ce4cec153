"""Emit an event to a destination that lets it wait, and kill the pool worker that waits there."""

from __future__ import annotations

import os
import signal
import time

from probe import all_is_done, dag_run, give, listener, listener_manager


def main() -> None:
    import psutil
    from airflow.utils.session import create_session

    futures, submit = [], listener().submit_callable
    listener_manager()
    submit = listener().submit_callable
    listener().submit_callable = lambda *args, **kwargs: futures.append(submit(*args, **kwargs))
    with create_session() as session:
        listener_manager().hook.on_dag_run_running(dag_run=dag_run(session), msg="")
        session.rollback()
    (pid,) = listener().executor.pids
    deadline = time.monotonic() + 30
    while not psutil.Process(pid).net_connections("tcp"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    all_is_done()
    error = futures[0].exception(0)
    give({"error": error and repr(error), "same worker": listener().executor.pids == [pid]})


if __name__ == "__main__":
    main()
