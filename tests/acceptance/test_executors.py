"""Tasks under every executor that one machine can have: all events arrive, from one client a process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from keepline.demo.destination import RecordingDestination
from tests.acceptance.executor_support import EVENTS_OF_WORK, Postgres, Stage, stage

MakeStage = Callable[..., Stage]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Callable[[], Postgres]]:
    """Gives a database server, the same to all."""
    with ExitStack() as stack:
        made: list[Postgres] = []

        def give() -> Postgres:
            if not made:
                made.append(stack.enter_context(Postgres()))
            return made[0]

        yield give


@pytest.fixture
def staged(tmp_path: Path) -> Iterator[MakeStage]:
    with ExitStack() as stack:

        def make(version: str, **options: Any) -> Stage:
            http, datadog = (stack.enter_context(RecordingDestination()) for _ in range(2))
            one = stage(tmp_path / "airflow", version, (http, datadog), **options)
            stack.enter_context(one.sandbox)
            return one

        yield make


def check(one: Stage, runs: int) -> None:
    """See that all events of so many runs have arrived at both, each from the one client of its process."""
    expected = runs * EVENTS_OF_WORK
    tallies = one.arrived(expected)
    assert [(each.delivered, each.duplicates, each.out_of_order) for each in tallies] == [
        (expected, 0, 0)
    ] * 2
    clients = one.clients_of_a_process()
    print(f"\n{one.sandbox.version}: {expected} events at both, {len(clients)} processes with a client each")
    assert set(clients.values()) == {1}


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_all_events_arrive_under_the_local_executor(
    staged: MakeStage, postgres: Callable[[], Postgres], version: str
) -> None:
    one = staged(version, postgres=postgres(), executor="LocalExecutor")
    one.start()
    one.finish_runs(4, "a")
    check(one, 4)


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_all_events_arrive_under_the_sequential_executor(staged: MakeStage) -> None:
    one = staged("2.11.2", executor="SequentialExecutor")
    one.start()
    one.finish_runs(2, "a")
    check(one, 2)


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_all_events_arrive_under_the_celery_executor(
    staged: MakeStage, postgres: Callable[[], Postgres], version: str
) -> None:
    one = staged(version, postgres=postgres(), executor="CeleryExecutor")
    worker = one.sandbox.start_worker(concurrency=2)
    assert len(worker.children()) >= 2  # prefork
    one.start()
    one.finish_runs(4, "a")
    check(one, 4)


@pytest.mark.timeout(300)
def test_a_task_whose_disk_goes_with_it_delivers_first_and_in_an_outage_says_what_it_leaves(
    staged: MakeStage, version: str
) -> None:
    one = staged(version, executor="pods.PodExecutor")
    one.start()
    one.finish_runs(1, "a")
    check(one, 1)
    assert len(list(one.pods.glob("*.log"))) == 3
    assert "have not arrived" not in one.said()

    one.down()
    one.finish_runs(1, "b", total=2)
    told = (
        r"ends (\S+) s after its work and OpenLineage events have not arrived: (.*); what waits is in (\S+),"
    )
    said = {disk: (float(seconds), what) for seconds, what, disk in re.findall(told, one.said())}
    assert len(said) == 3, one.said()
    for seconds, what in said.values():
        assert seconds < 5
        assert re.search(r"2 not at `datadog` \(.+\), 2 not at `http` \(.+\)", what)
    one.up()
    # What the scheduler has emitted waits on a disk that stays.
    assert [t.delivered for t in one.arrived(EVENTS_OF_WORK + 2)] == [EVENTS_OF_WORK + 2] * 2
