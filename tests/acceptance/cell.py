"""What one cell of the matrix lives through: tasks, outages, kills, and a stop in an outage."""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil

from keepline.relay.lock import running
from tests.acceptance.conftest import Live

LONG = 180.0  # seconds; nothing takes as long, even on a busy machine

DAGS = {
    "cell.py": """\
from datetime import datetime, timedelta

try:
    from airflow.providers.standard.operators.python import PythonOperator
    from airflow.sdk import DAG
except ImportError:
    from airflow import DAG
    from airflow.operators.python import PythonOperator


def succeed(*args):
    print("done", *args)


def fail():
    raise RuntimeError("as it should")


def fail_once(ti):
    if ti.try_number < 2:
        fail()


options = {"schedule": None, "start_date": datetime(2020, 1, 1), "catchup": False}

with DAG("tasks", **options):
    again = PythonOperator(
        task_id="again", python_callable=fail_once, retries=1, retry_delay=timedelta(0)
    )
    each = PythonOperator.partial(task_id="each", python_callable=succeed).expand(op_args=[["a"], ["b"]])
    PythonOperator(task_id="once", python_callable=succeed) >> again >> each

with DAG("failure", **options):
    PythonOperator(task_id="fails", python_callable=fail)
"""
}

# How many different runs have an event of this type, of this job: what one run each of those DAGs comes to.
TASK_EVENTS = Counter(
    {
        ("tasks", "START"): 1,
        ("tasks", "COMPLETE"): 1,
        ("tasks.once", "START"): 1,
        ("tasks.once", "COMPLETE"): 1,
        ("tasks.again", "START"): 2,
        ("tasks.again", "FAIL"): 1,
        ("tasks.again", "COMPLETE"): 1,
        ("tasks.each", "START"): 2,
        ("tasks.each", "COMPLETE"): 2,
        ("failure", "START"): 1,
        ("failure", "FAIL"): 1,
        ("failure.fails", "START"): 1,
        ("failure.fails", "FAIL"): 1,
    }
)


@dataclass
class Cell:
    """What was seen.

    Args:
        live: the Airflow, still running.
        expected: how many runs should have an event of a type, by job and type.
        http_in_the_outage: whether the destination that was well had all events while the other was out.
        stopping: seconds that the scheduler took to end after SIGTERM, with both destinations out.
        kept_back: events that the killed pool worker had left to its successor.
        workers: threads of each pool worker when it was looked at first and last, by pid.
    """

    live: Live
    expected: Counter[tuple[str, str]] = field(default_factory=Counter)
    http_in_the_outage: bool = False
    stopping: float = 0.0
    kept_back: int = 0
    workers: dict[int, list[int]] = field(default_factory=dict)

    @property
    def events(self) -> int:
        return sum(self.expected.values())

    def look_at_workers(self) -> list[psutil.Process]:
        found = self.live.sandbox.pool_workers()
        for one in found:
            self.workers.setdefault(one.pid, []).append(one.num_threads())
        return found

    def finish_runs(self, count: int, prefix: str) -> None:
        """Have the scheduler finish runs that have no task."""
        self.live.sandbox.create_runs("runs_only", count, prefix=prefix)
        self.expected["runs_only", "START"] += count
        self.expected["runs_only", "COMPLETE"] += count
        self.live.sandbox.wait_runs("runs_only", self.expected["runs_only", "START"], timeout=LONG)

    def wait_for_all(self) -> None:
        self.live.wait_for_events(self.events, timeout=LONG)


def live_through(live: Live, report: Callable[[str], None]) -> Cell:
    """Go through all of it, and give what was seen; each part waits for its events.

    Args:
        live: an Airflow with DAGS, prepared.
        report: told what begins.
    """
    cell = Cell(live)
    for part in (
        tasks_in_an_outage,
        state_changed_by_hand,
        relay_killed,
        worker_killed,
        stopped_in_an_outage,
    ):
        report(part.__name__.replace("_", " "))
        part(cell)
        cell.wait_for_all()
        cell.look_at_workers()
    return cell


def tasks_in_an_outage(cell: Cell) -> None:
    live = cell.live
    for dag in ("failure", "tasks"):
        live.sandbox.create_runs(dag, 1, prefix="a")
    cell.expected += TASK_EVENTS
    if live.sandbox.version.startswith("3"):
        live.sandbox.start_api_server()
    live.sandbox.start_scheduler()
    live.datadog.wait_for(lambda d: len(d.events) >= 3, LONG)
    live.datadog.down()
    live.sandbox.wait_runs("failure", 1, state="failed", timeout=LONG)
    live.sandbox.wait_runs("tasks", 1, timeout=LONG)
    live.http.wait_for(lambda d: counted(d.events) == cell.expected, LONG)
    cell.http_in_the_outage = counted(live.datadog.events) != cell.expected
    live.datadog.up()


def state_changed_by_hand(cell: Cell) -> None:
    live = cell.live
    if live.sandbox.version.startswith("2"):
        return  # it is the web server that does it there, which nobody has started
    token = json.loads(asked(f"{live.sandbox.api_url}/auth/token"))["access_token"]
    asked(
        f"{live.sandbox.api_url}/api/v2/dags/failure/dagRuns/a-0000/taskInstances/fails",
        method="PATCH",
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        data=json.dumps({"new_state": "success"}).encode(),
    )
    cell.expected["failure.fails", "COMPLETE"] += 1


def relay_killed(cell: Cell) -> None:
    live = cell.live
    for one in live.destinations:
        one.answer(201, delay=2.0)
    cell.finish_runs(10, "b")
    live.http.wait_for(lambda d: d.in_flight > 0, LONG)
    relay = running(live.outbox)
    assert relay is not None
    psutil.Process(relay.pid).kill()
    for one in live.destinations:
        one.answer(201)
    wait_until(lambda: running(live.outbox) is None, "the end of the relay")
    # A process that emits looks now and then whether there is a relay.
    for attempt in range(int(LONG)):
        cell.finish_runs(1, f"c{attempt}")
        if running(live.outbox) is not None:
            return
    raise AssertionError("no event that was emitted has started another relay")


def worker_killed(cell: Cell) -> None:
    (worker,) = cell.look_at_workers()
    worker.suspend()  # so that all that follows depends on its successor
    before = cell.events
    cell.finish_runs(30, "d")
    cell.kept_back = cell.events - max(before, len(cell.live.http.events))
    worker.kill()


def stopped_in_an_outage(cell: Cell) -> None:
    live = cell.live
    live.down()
    cell.finish_runs(20, "e")
    cell.stopping = live.sandbox.terminate_scheduler(timeout=LONG)
    live.up()
    live.sandbox.start_scheduler()
    cell.wait_for_all()
    cell.finish_runs(5, "f")


def counted(events: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """Count the runs that have an event of a type, by job and type, however often it came."""
    different = {(e["job"]["name"], e["eventType"], e["run"]["runId"]) for e in events}
    return Counter((job, kind) for job, kind, _ in different)


def asked(url: str, **request: Any) -> bytes:
    """Give the API server's answer."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(urllib.request.Request(url, **request), timeout=LONG) as answer:
        return bytes(answer.read())


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, f"not within {LONG:g} s: {what}"
        time.sleep(0.05)
