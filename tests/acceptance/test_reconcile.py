"""Schedulers that lose events, and ``keepline reconcile`` that has each run's START and end arrive even so.

``make reconcile`` runs the killing with 100 DAG runs and prints its figures; by default it is a small one.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from openlineage.client.uuid import generate_static_uuid

from keepline.demo.destination import RecordingDestination
from tests.acceptance.conftest import Live
from tests.support_outbox import fill, small_disk

MakeLive = Callable[..., Live]

ROOT = Path(__file__).parents[2]
RUNS = int(os.environ.get("RECONCILE_RUNS", "12"))
"""DAG runs of the scheduler that is killed; every fifth has a task."""
KILLS = int(os.environ.get("RECONCILE_KILLS", "2"))
SEED = int(os.environ.get("RECONCILE_SEED", "1"))

ENDS = ("COMPLETE", "FAIL")


@dataclass(frozen=True)
class Ended:
    """A DAG run or a try of a task that has ended.

    Args:
        job: name of its OpenLineage job.
        run: its OpenLineage run id.
    """

    job: str
    run: str


def run_id(date: str, *words: object) -> str:
    """The id that the provider gives to a run, made again here."""
    instant = datetime.fromisoformat(date).replace(tzinfo=timezone.utc)
    return str(generate_static_uuid(instant=instant, data=".".join(map(str, ("default", *words))).encode()))


def ended(live: Live) -> Iterator[Ended]:
    """Everything that has had a START and has ended, as Airflow's database says."""
    date = "execution_date" if live.sandbox.version.startswith("2") else "logical_date"
    with closing(sqlite3.connect(live.sandbox.home / "airflow.db", timeout=30)) as database:
        for dag_id, at, cleared in database.execute(
            f"SELECT dag_id, {date}, clear_number FROM dag_run WHERE state IN ('success', 'failed')"
        ):
            yield Ended(dag_id, run_id(at, dag_id, cleared))
        for table in ("task_instance", "task_instance_history"):
            for dag_id, task_id, at, number, map_index in database.execute(
                f"SELECT ti.dag_id, task_id, {date}, try_number, map_index FROM {table} AS ti "
                "JOIN dag_run ON dag_run.dag_id = ti.dag_id AND dag_run.run_id = ti.run_id "
                "WHERE ti.state IN ('success', 'failed') AND hostname <> '' "
                # One that was killed on its way to a process has what is left of the one before.
                "AND NOT EXISTS (SELECT 1 FROM task_instance_history AS before "
                "WHERE before.dag_id = ti.dag_id AND before.run_id = ti.run_id "
                "AND before.task_id = ti.task_id AND before.map_index = ti.map_index "
                "AND before.start_date = ti.start_date "
                "AND before.try_number < ti.try_number)"
            ):
                yield Ended(f"{dag_id}.{task_id}", run_id(at, dag_id, task_id, number, map_index))


def types_by_run(destination: RecordingDestination) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for event in destination.events:
        found.setdefault(event["run"]["runId"], []).append(event["eventType"])
    return found


def incomplete(destination: RecordingDestination, runs: Iterable[Ended]) -> list[tuple[Ended, list[str]]]:
    """The runs of which a destination hasn't both the START and the end, or had the START last."""
    types = types_by_run(destination)
    return [
        (one, had) for one in runs if "START" not in (had := types.get(one.run, [])) or had[-1] not in ENDS
    ]


def prepared(make: MakeLive, version: str) -> Live:
    live = make(version)
    live.sandbox.env.update(
        # Its processes find these sources.
        PYTHONPATH=str(ROOT / "src"),
        # What is left in the spool when nobody is there any more to emit it counts as under way.
        AIRFLOW__KEEPLINE__STOP_TIMEOUT="90",
        # Tasks of a scheduler that was killed are soon the next one's.
        AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC="1",
        AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD="8",
        AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL="3",
        AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT="8",
        AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL="3",
    )
    return live


def reconcile(live: Live, *options: str, status: int = 0) -> dict[str, Any]:
    """Run the command in Airflow's environment; what it says."""
    command = [
        str(live.sandbox.python.with_name("keepline")),
        "reconcile",
        "--json",
        "--grace",
        "0",
        *options,
    ]
    done = subprocess.run(
        command,
        env=live.sandbox.env,
        cwd=live.sandbox.home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def wait_until(condition: Callable[[], object], timeout: float, what: str) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.05)


def states(live: Live) -> dict[str, int]:
    found: dict[str, int] = {}
    for dag_id in ("runs_only", "one_task"):
        for state, count in live.sandbox.run_states(dag_id).items():
            found[state] = found.get(state, 0) + count
    return found


def all_ended(live: Live, count: int) -> bool:
    found = states(live)
    return found.get("success", 0) + found.get("failed", 0) == count


def see_all_arrived(live: Live) -> list[Ended]:
    """Wait until both destinations have all of what has ended."""
    runs = list(ended(live))
    for destination in live.destinations:
        destination.wait_for(lambda d: not incomplete(d, runs), 60)
    return runs


@pytest.mark.timeout(2400)
def test_after_kills_of_the_scheduler_each_run_gets_its_start_and_its_end(
    live: MakeLive, record_property: Callable[[str, object], None]
) -> None:
    one = prepared(live, "3.3.2")
    began = time.time() - 1
    chance = random.Random(SEED)
    one.sandbox.start_api_server()
    created = 0
    for kill in range(KILLS):
        more = RUNS * (kill + 1) // KILLS - created
        with_task = more // 5 or 1
        one.sandbox.create_runs("runs_only", more - with_task, prefix=f"a{kill}")
        one.sandbox.create_runs("one_task", with_task, prefix=f"a{kill}")
        created += more
        one.sandbox.start_scheduler()
        waiting = states(one).get("queued", 0)
        wait_until(lambda: states(one).get("queued", 0) < waiting, 180, "a run that is begun")  # noqa: B023
        time.sleep(chance.uniform(0.0, 2.0))
        one.sandbox.kill_tree()
    one.sandbox.start_scheduler()
    wait_until(lambda: all_ended(one, created), 1200, "the end of all runs")
    # Whatever its workers have in hand is in the outbox when it has ended.
    one.sandbox.terminate_scheduler(120)

    runs = list(ended(one))
    lacking = max(len(incomplete(destination, runs)) for destination in one.destinations)
    first = reconcile(one, "--from", str(datetime.fromtimestamp(began, timezone.utc).isoformat()), "--yes")
    assert see_all_arrived(one) == runs
    second = reconcile(one, "--from", datetime.fromtimestamp(began, timezone.utc).isoformat(), "--yes")
    figures = {
        "DAG runs": created,
        "with tries": len(runs),
        "kills": KILLS,
        "lacking before": lacking,
        "missing": first["missing"],
        "emitted": first["emitted"],
        "emitted by the second": second["emitted"],
    }
    print(f"\nreconciled after kill -9: {figures}")
    record_property("reconciled", figures)
    assert (first["failed"], second["failed"], second["emitted"], second["missing"]) == (0, 0, 0, {})
    marked = [event for event in one.http.events if "keepline_reconciled" in event["run"]["facets"]]
    assert len(marked) == first["emitted"]


@pytest.mark.timeout(600)
def test_what_no_hook_told_of_and_what_a_full_disk_refused_is_reconciled(
    live: MakeLive, version: str
) -> None:
    one = prepared(live, version)
    with small_disk(one.sandbox.home / "keepline", kilobytes=8192) as disk:
        if version.startswith("3"):
            one.sandbox.start_api_server()
        one.sandbox.env["AIRFLOW__OPENLINEAGE__DISABLED"] = "True"
        one.sandbox.start_scheduler()
        one.sandbox.create_runs("runs_only", 4, prefix="off")
        one.sandbox.create_runs("one_task", 1, prefix="off")
        wait_until(lambda: all_ended(one, 5), 120, "the end of runs without OpenLineage")
        one.sandbox.terminate_scheduler(120)

        del one.sandbox.env["AIRFLOW__OPENLINEAGE__DISABLED"]
        one.sandbox.start_scheduler()
        one.sandbox.create_runs("runs_only", 2, prefix="on")
        wait_until(lambda: all_ended(one, 7), 120, "the end of runs with OpenLineage")
        one.wait_for_events(4, timeout=60)
        filler = fill(disk)
        one.sandbox.create_runs("runs_only", 3, prefix="full")
        wait_until(lambda: all_ended(one, 10), 120, "the end of runs on a full disk")
        one.sandbox.terminate_scheduler(120)
        filler.unlink()
        assert one.status().refused > 0

        # Nothing is forgotten yet, so it may be asked for what came before the first event.
        options = ("--from", "1h", "--yes")
        dry = reconcile(one, *options, "--dry-run")
        assert not any("keepline_reconciled" in event["run"]["facets"] for event in one.http.events)
        done = reconcile(one, *options)
        assert done["missing"] == dry["missing"]
        assert done["emitted"] == dry["emitted"]
        # Of the first, five runs and a task; of those on the full disk, what found no room.
        assert done["dags"]["one_task"] == {"START": 2, "COMPLETE": 2}
        assert sum(done["dags"]["runs_only"].values()) > 8
        assert len(see_all_arrived(one)) == 11
        again = reconcile(one, *options)
        assert (again["emitted"], again["missing"], again["tries"]) == (0, {}, 1)

        facets = [event["run"]["facets"].get("keepline_reconciled") for event in one.http.events]
        marks = [facet for facet in facets if facet is not None]
        assert len(marks) == done["emitted"]
        assert all(mark["airflowState"] == "success" and mark["reconciledAt"] for mark in marks)
