"""What the process of a task does before it ends, where it delivers by itself: ``relay: inline``.

Its disk may go with it, as a pod's does, and a task's process is a fork that ends without Python's own end,
so that no exit handler runs. ``before_stopping`` is the last that is heard of it.
"""

from __future__ import annotations

import logging
import os
import time

from keepline.airflow import configuration
from keepline.config import RelayMode, Settings
from keepline.emission import Emission
from keepline.errors import KeeplineError
from keepline.outbox.files import OutboxFiles

log = logging.getLogger(__name__)

# By name: each is of another version of Airflow, and some of their modules are costly to import.
_TASKS = frozenset({"TaskRunnerMarker", "TaskCommandMarker"})
_TASK_JOB = "LocalTaskJob"
# What waits for Airflow 2's task runner was given its time, unless it was killed; that takes no longer.
_SECOND_SECONDS = 1.0

_flushed_in = 0


def flush_task(component: object) -> None:
    """Deliver what the process of a task has emitted, within a bounded time; say what could not be.

    Does nothing in another process, and where something else than the process itself delivers.

    Args:
        component: Airflow's, as ``before_stopping`` has it.

    Raises:
        KeeplineError: a setting is wrong, or the outbox can't be used.
        Exception: what the provider or the client raises for a configuration that can't be read.
    """
    global _flushed_in
    watcher = getattr(component, "job_type", None) == _TASK_JOB
    if not watcher and type(component).__name__ not in _TASKS:
        return
    if _flushed_in == os.getpid():
        return  # Airflow 2's process that watches a task stops twice: as a job, and as a command.
    settings = _settings()
    if settings is None or settings.relay is not RelayMode.INLINE:
        return
    if watcher:
        _flushed_in = os.getpid()
    flush(settings, min(configuration.flush_timeout(), _SECOND_SECONDS if watcher else float("inf")))


def _settings() -> Settings | None:
    made = Emission.settings_of_all()
    if made:
        # What this process has emitted with. To ask for the configuration makes a client, for a moment.
        return next((one for one in made if one.relay is RelayMode.INLINE), None)
    # It may have had a child emit for it.
    return configuration.settings()


def flush(settings: Settings, timeout: float) -> bool:
    """Deliver what waits in an outbox from this process, and end the thread that does it.

    Args:
        settings: of the outbox.
        timeout: longest wait, seconds.

    Returns:
        whether nothing waits any more.
    """
    # Here because no other process needs what delivers.
    from keepline.relay.inline import InlineRelay

    began = time.monotonic()
    relay = InlineRelay.of(settings)
    relay.own()  # Events may have been emitted by children of this process, which don't wait for them.
    # Requests under way have had their time as well.
    if relay.stop(timeout, within=0.0):
        return True
    files = OutboxFiles(settings.outbox)
    if not _another_delivers(files):
        log.warning(
            "keepline: this process ends %.1f s after its work and %s; what waits is in %s, and is lost if "
            "that folder goes with this process",
            time.monotonic() - began,
            _what_waits(files),
            files.folder,
        )
    return False


def _another_delivers(files: OutboxFiles) -> bool:
    from keepline.relay.lock import running

    try:
        relay = running(files)
    except KeeplineError:
        return True  # It is just starting.
    return relay is not None and relay.pid != os.getpid()


def _what_waits(files: OutboxFiles) -> str:
    from keepline.outbox.status import read_status

    try:
        status = read_status(files)
    except KeeplineError as error:
        return f"OpenLineage events may not have arrived: {error}"
    said = [
        f"{one.pending} not at `{one.name}`" + (f" ({one.reason})" if one.reason else "")
        for one in status.destinations
        if one.active and one.pending
    ]
    if status.waiting or not said:
        said.append(f"{status.waiting} not tried yet")
    return "OpenLineage events have not arrived: " + ", ".join(said)
