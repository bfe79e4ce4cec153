"""What a scheduler's DAG-run events go through, on live schedulers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import psutil
import pytest

from keepline.demo import processes
from keepline.relay.lock import RelayInfo, running
from tests.acceptance.conftest import Live

DAG = "runs_only"
MakeLive = Callable[..., Live]

IDLE_SECONDS = 30.0
MOST_IDLE_CPU = 0.3
MOST_THREADS = 3
MOST_CONNECTIONS = 4


def finish_runs(live: Live, count: int, prefix: str, *, total: int | None = None) -> None:
    live.sandbox.create_runs(DAG, count, prefix=prefix)
    live.sandbox.wait_runs(DAG, total or count, timeout=120)


def relay_of(live: Live) -> RelayInfo:
    relay = running(live.outbox)
    assert relay is not None
    return relay


def wait_until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.05)


def accepted(live: Live) -> int:
    """Events that are in the outbox or were."""
    status = live.status()
    if not status.destinations:
        return status.waiting
    return status.waiting + min(one.pending + one.delivered + one.dead for one in status.destinations)


@pytest.mark.timeout(300)
def test_each_pool_worker_keeps_one_client_and_idles_for_nothing(
    live: MakeLive, version: str, record_property: Callable[[str, object], None]
) -> None:
    one = live(version)
    one.sandbox.start_scheduler()
    finish_runs(one, 100, "a")
    one.wait_for_events(200, timeout=60)
    assert all(tally.good and tally.duplicates == 0 for tally in one.tallies(200))

    workers = [worker.pid for worker in one.sandbox.pool_workers()]
    assert len(workers) == 1
    made = Counter(pid for pid, _ in one.clients())
    assert [made[pid] for pid in workers] == [1]

    pids = [*workers, relay_of(one).pid]
    idle = processes.cpu_percent(pids, IDLE_SECONDS)
    costs = {pid: processes.cost(pid) for pid in pids}
    ports = [int(d.url.rsplit(":", 1)[1]) for d in one.destinations]
    connections = [sum(cost.connections.get(port, 0) for cost in costs.values()) for port in ports]
    print(
        f"\n{version}: idle CPU % {idle}, threads { {p: c.threads for p, c in costs.items()} }, "
        f"connections {connections}, RSS MB { {p: round(c.rss) for p, c in costs.items()} }"
    )
    assert set(idle) == set(pids)
    assert max(idle.values()) <= MOST_IDLE_CPU
    assert max(cost.threads for cost in costs.values()) <= MOST_THREADS
    assert max(connections) <= MOST_CONNECTIONS
    assert all(d.connections_peak <= MOST_CONNECTIONS for d in one.destinations)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("transport", ["composite", "datadog"])
def test_each_pool_worker_keeps_one_client_whatever_the_transport(
    live: MakeLive, version: str, transport: str
) -> None:
    one = live(version, transport=transport)
    one.sandbox.start_scheduler()
    finish_runs(one, 20, "a")
    one.datadog.wait_for(lambda d: len(d.events) >= 40, timeout=60)

    workers = [worker.pid for worker in one.sandbox.pool_workers()]
    assert len(workers) == 1
    made = Counter(pid for pid, _ in one.clients())
    assert [made[pid] for pid in workers] == [1]
    assert max(processes.cost(pid).threads for pid in workers) <= MOST_THREADS
    # What hooks submit goes through the pool's spool, and no event through an outbox.
    assert {path.name for path in one.outbox.folder.iterdir()} == {"spool"}


@pytest.mark.timeout(300)
def test_a_scheduler_stopped_in_an_outage_ends_at_once_and_loses_nothing(
    live: MakeLive, version: str
) -> None:
    one = live(version)
    one.sandbox.start_scheduler()
    one.down()
    finish_runs(one, 50, "a")

    took = one.sandbox.terminate_scheduler(timeout=60)
    print(f"\n{version}: the scheduler ended {took:.1f} s after SIGTERM")
    assert took < 10
    assert not any(d.received for d in one.destinations)

    one.up()
    one.sandbox.start_scheduler()
    one.wait_for_events(100, timeout=90)
    assert [(tally.delivered, tally.out_of_order) for tally in one.tallies(100)] == [(100, 0), (100, 0)]


@pytest.mark.timeout(300)
def test_everything_killed_in_an_outage_loses_nothing(live: MakeLive, version: str) -> None:
    one = live(version)
    one.sandbox.start_scheduler()
    one.down()
    finish_runs(one, 50, "a")
    wait_until(lambda: accepted(one) >= 100, 60, "100 events in the outbox")

    relay = psutil.Process(relay_of(one).pid)
    one.sandbox.kill_tree()
    relay.kill()
    wait_until(lambda: running(one.outbox) is None, 10, "the end of the relay")
    assert not any(d.received for d in one.destinations)

    one.up()
    one.sandbox.start_scheduler()
    one.wait_for_events(100, timeout=90)
    assert [(tally.delivered, tally.out_of_order) for tally in one.tallies(100)] == [(100, 0), (100, 0)]


@pytest.mark.timeout(300)
def test_a_pool_worker_killed_half_way_loses_nothing(live: MakeLive, version: str) -> None:
    one = live(version)
    for destination in one.destinations:
        destination.answer(201, delay=0.2)
    one.sandbox.start_scheduler()
    one.sandbox.create_runs(DAG, 50, prefix="a")
    wait_until(lambda: accepted(one) >= 30, 60, "30 events in the outbox")
    (worker,) = one.sandbox.pool_workers()
    worker.kill()
    assert accepted(one) < 100

    one.sandbox.wait_runs(DAG, 50, timeout=120)
    one.wait_for_events(100, timeout=60)
    assert [(tally.delivered, tally.out_of_order) for tally in one.tallies(100)] == [(100, 0), (100, 0)]
    (replaced,) = one.sandbox.pool_workers()
    assert replaced.pid != worker.pid


@pytest.mark.timeout(300)
def test_a_task_does_not_wait_for_a_slow_destination(live: MakeLive, version: str) -> None:
    one = live(version, leg={"timeout": 20})
    if version.startswith("3"):
        one.sandbox.start_api_server()
    one.sandbox.start_scheduler()
    # The first run pays for what only happens once, such as starting a relay.
    took = {}
    for name, delay in (("first", 0.0), ("fast", 0.0), ("slow", 8.0)):
        for destination in one.destinations:
            destination.answer(201, delay=delay)
        began = time.monotonic()
        one.sandbox.create_runs("one_task", 1, prefix=name)
        one.sandbox.wait_runs("one_task", len(took) + 1, timeout=120)
        took[name] = time.monotonic() - began
    print(f"\n{version}: seconds for a run with one task {took}")
    # Waiting for a single answer of one destination would cost eight seconds.
    assert took["slow"] < took["fast"] + 4

    one.wait_for_events(12, timeout=90)
    assert [(tally.delivered, tally.out_of_order) for tally in one.tallies(12)] == [(12, 0), (12, 0)]
