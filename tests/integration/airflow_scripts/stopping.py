"""Stop the listener as Airflow does, in each way that can go wrong; tell how long it took, and what then.

A worker is kept from its work by a call that sleeps. With the argument "idle", only what goes well.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from probe import all_is_done, argument, give, listener, listener_manager


def stop() -> float:
    """Stop, as a job of Airflow that ends; the seconds that it took."""
    began = time.monotonic()
    listener_manager().hook.before_stopping(component=object())
    return time.monotonic() - began


def works() -> bool:
    """Whether what is submitted now is carried out, by a worker that is new if there was none."""
    mark = Path(os.environ["SCRIPT_RESULT"] + ".mark")
    mark.unlink(missing_ok=True)
    listener().submit_callable(mark.touch)
    all_is_done()
    return mark.exists()


def pools_of_threads(count: int) -> int:
    """How many pools there are when many threads ask at once, as those of an API server do."""
    together, pools = threading.Barrier(count), set()

    def ask() -> None:
        together.wait()
        pools.add(listener().executor)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(pools)


def spools() -> Path:
    from keepline.airflow.configuration import spool_folder

    return spool_folder()


def worker() -> int:
    (pid,) = listener().executor.pids
    return pid


def in_a_child(call: Any) -> bool:
    """Whether a call in a forked child returns within a second."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)
        os._exit(0 if call() < 1.0 else 1)
    return os.waitpid(pid, 0)[1] == 0


def main() -> None:
    import psutil

    listener_manager()
    found: dict[str, Any] = {"with nothing to stop": stop(), "pools of many threads": pools_of_threads(16)}

    assert works()
    found["idle"] = stop()
    found["twice"] = stop()
    if argument(1) == "idle":
        give(found)
        return

    assert works()
    pid = worker()
    found["a forked child stops"] = in_a_child(stop)
    found["its parent's worker goes on"] = works() and worker() == pid
    thread = threading.Thread(target=lambda: found.update({"off the main thread": stop()}))
    thread.start()
    thread.join()

    listener().submit_callable(time.sleep, 600)
    listener().submit_callable(os.getpid)
    pid = worker()
    found["a worker hangs"] = stop()
    found["it lives"] = psutil.pid_exists(pid)
    found["spools left"] = len([one for one in spools().iterdir() if one.name != "aside"])

    found["a later event is emitted"] = works()
    os.kill(worker(), signal.SIGSTOP)
    found["a worker is stopped by a signal"] = stop()
    give(found)


if __name__ == "__main__":
    main()
