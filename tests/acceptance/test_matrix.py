"""One cell of the matrix: what holds on every version, after a life with tasks, outages and kills."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.acceptance.cell import DAGS, Cell, counted, live_through
from tests.acceptance.conftest import live_airflow

MOST_THREADS = 3
MOST_SECONDS_TO_STOP = 10.0

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def cell(
    version: str,
    tmp_path_factory: pytest.TempPathFactory,
    record_testsuite_property: Callable[[str, object], None],
) -> Iterator[Cell]:
    began = time.monotonic()

    def report(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True)

    with live_airflow(tmp_path_factory.mktemp("cell"), version, dags=DAGS) as live:
        seen = live_through(live, report)
        # What tools/matrix.py puts into its table.
        record_testsuite_property("events", seen.events)
        record_testsuite_property(
            "again", ", ".join(str(one.duplicates) for one in live.tallies(seen.events))
        )
        record_testsuite_property("stopping", f"{seen.stopping:.1f} s")
        record_testsuite_property("threads", max(map(max, seen.workers.values())))
        yield seen


def test_every_event_of_runs_and_tasks_arrives_at_both_destinations(cell: Cell) -> None:
    assert [counted(one.events) for one in cell.live.destinations] == [cell.expected, cell.expected]


def test_every_event_arrives_in_the_order_of_its_run(cell: Cell) -> None:
    assert [one.out_of_order for one in cell.live.tallies(cell.events)] == [0, 0]


def test_an_outage_of_one_destination_holds_nothing_back_from_the_other(cell: Cell) -> None:
    assert cell.http_in_the_outage


def test_each_process_that_emits_has_one_client_and_it_is_ours(cell: Cell) -> None:
    made = Counter(cell.live.clients())
    ours = {(pid, "keepline.transport.Transport"): 1 for pid in cell.live.emitters()}
    assert {one: count for one, count in made.items() if one[0] in cell.live.emitters()} == ours


def test_our_listener_is_in_place_in_the_scheduler_and_in_tasks(cell: Cell) -> None:
    assert cell.live.listeners() >= {("scheduler", "KeeplineListener"), ("task", "KeeplineListener")}
    assert {name for _, name in cell.live.listeners()} == {"KeeplineListener"}


def test_no_pool_worker_grows_threads(cell: Cell) -> None:
    # One of the first scheduler's, its successor, and one of the second scheduler's.
    assert len(cell.workers) == 3
    assert max(max(seen) for seen in cell.workers.values()) <= MOST_THREADS


def test_what_a_killed_pool_worker_left_is_emitted_by_its_successor(cell: Cell) -> None:
    assert cell.kept_back > 0


def test_the_scheduler_ends_in_time_when_stopped_in_an_outage(cell: Cell) -> None:
    assert cell.stopping <= MOST_SECONDS_TO_STOP
