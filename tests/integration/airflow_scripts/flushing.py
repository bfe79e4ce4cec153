"""Emit as the process of a task, end as it does, and tell how long that took.

The argument is what ends: "task", "watcher" (Airflow 2's process beside a task's), "scheduler", or "fork": a
task whose events were emitted by a child that has ended.
"""

from __future__ import annotations

import json
import os
import sys
import time
from types import SimpleNamespace
from typing import Any

from probe import argument, give, listener_manager


class TaskRunnerMarker:
    """What Airflow 3 hands to its hooks for the process of a task."""


def emit() -> None:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import Job, Run, RunEvent, RunState

    transport = {"transport": json.loads(os.environ["AIRFLOW__OPENLINEAGE__TRANSPORT"])}
    client = OpenLineageClient(config=transport)
    for state in (RunState.START, RunState.COMPLETE):
        run = Run(runId="00000000-0000-4000-8000-000000000001")
        client.emit(
            RunEvent(
                eventType=state,
                eventTime="2026-01-01T00:00:00Z",
                run=run,
                job=Job(namespace="tests", name="one"),
                producer="https://example.com/keepline-tests",
            )
        )


def main() -> None:
    who = argument(1)
    components: dict[str, Any] = {
        "watcher": SimpleNamespace(job_type="LocalTaskJob"),
        "scheduler": SimpleNamespace(job_type="SchedulerJob"),
    }
    hook = listener_manager().hook
    pid = os.fork() if who == "fork" else 0
    if pid == 0:
        emit()
    if who == "fork":
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    took = []
    for _ in range(2):  # Airflow 2's watcher stops twice
        began = time.monotonic()
        hook.before_stopping(component=components.get(who, TaskRunnerMarker()))
        took.append(time.monotonic() - began)
    give({"took": took, "loaded": "keepline.relay.inline" in sys.modules})
    # Without Python's own end, as a task's process.
    sys.stdout.flush()
    os._exit(0)


main()
