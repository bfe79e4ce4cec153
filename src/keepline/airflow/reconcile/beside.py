"""A reconciliation beside a scheduler that starts, in a process of its own, which never holds it up."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import keepline
from keepline.relay.launch import reap_too

log = logging.getLogger(__name__)

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import keepline; del sys.path[0]; "
    "from keepline.airflow.reconcile.beside import main; main()"
)
_LONGEST = 3600.0  # seconds
_NICE = 10
_LOOK_EVERY = 1.0


def start() -> None:
    """Start it. It waits as long as events may be on their way, and ends when this process does.

    Raises:
        OSError: no process can be started.
    """
    root = Path(keepline.__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", _BOOT, str(root), str(os.getpid()), str(time.time())],
        stdin=subprocess.DEVNULL,
    )
    reap_too(process.pid)
    # reap() collects its status, by its number: this object would complain of an end it hasn't seen.
    process.returncode = 0


def main() -> None:
    """Reconcile once; the arguments are the scheduler's process id, and when it started, s since 1970."""
    scheduler, started = int(sys.argv[1]), float(sys.argv[2])
    with suppress(OSError):
        os.nice(_NICE)
    # Airflow configures logging when it is imported.
    import airflow  # noqa: F401

    from keepline.airflow.guard import tell
    from keepline.airflow.reconcile.range import GRACE

    try:
        if _wait(lambda: os.getppid() != scheduler, started + GRACE):
            _reconcile(scheduler, started + GRACE)
    except Exception as error:
        tell(log, "keepline could not reconcile what earlier schedulers have left", error)


def _wait(gone: Callable[[], bool], until: float) -> bool:
    """Wait until a time; whether the scheduler is still there then."""
    while not gone():
        left = until - time.time()
        if left <= 0:
            return True
        time.sleep(min(left, _LOOK_EVERY))
    return False


def _reconcile(scheduler: int, now: float) -> None:
    from keepline.airflow.reconcile.doing import Request, find_outbox, reconcile
    from keepline.errors import OutboxLocked
    from keepline.outbox.known import reach

    files = find_outbox(may_come=True)
    if not files.folder.is_dir() or reach(files).since is None:
        log.info("keepline has nothing to reconcile: the outbox has had no event yet")
        return
    deadline = time.monotonic() + _LONGEST
    try:
        report = reconcile(
            files,
            Request(),
            total=lambda count: None,
            done=lambda count: None,
            stop=lambda: os.getppid() != scheduler or time.monotonic() > deadline,
            now=now,
        )
    except OutboxLocked as error:
        log.info("keepline does not reconcile: %s", error)
        return
    log.info(
        "keepline has reconciled %d DAG runs and %d tries of tasks: %d events were missing, %d were emitted, "
        "%d could not be built",
        report.dag_runs,
        report.tries,
        report.missing.total(),
        report.emitted,
        report.failed,
    )
