from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support_outbox import close_producers, event, producer

from keepline.cli.checking import CHECKS, Limits, findings, summary
from keepline.outbox import refusals
from keepline.outbox.backlog import measure
from keepline.outbox.files import OutboxFiles
from keepline.outbox.segments import segment_numbers, segment_path
from keepline.outbox.status import DestinationStatus, OutboxStatus, read_status
from keepline.relay.glance import Glance, look

NOW = 1_000_000.0
HOUR = 3600.0

DESTINATION = DestinationStatus("trove", True, "open", "", NOW - HOUR, 0, None, 10, 0, 0, "200", NOW)
WELL = Glance(
    folder="/outbox",
    at=NOW,
    outbox=OutboxStatus((DESTINATION,), 0, None, 0, 1000),
    dead_lately=0,
    refused_at=None,
    written_at=NOW - HOUR,
    free_bytes=10**9,
    relay=17,
    relay_since=NOW - HOUR,
)
LIMITS = Limits(age=900, pending=100, dead=0, since=NOW - HOUR, free_bytes=10**8, relay=False)


def waiting(count: int, age: float, **more: float) -> Glance:
    return replace(WELL, outbox=replace(WELL.outbox, waiting=count, waiting_age=age), **more)


def at_destination(**changes: object) -> Glance:
    return replace(
        WELL,
        outbox=replace(WELL.outbox, destinations=(replace(DESTINATION, **changes),)),  # type: ignore[arg-type]
    )


def wrong(seen: Glance, limits: Limits = LIMITS) -> dict[str, str]:
    """What is said of the checks that aren't passed."""
    return {one.name: one.said for one in findings(seen, limits, CHECKS) if not one.ok}


def test_an_outbox_whose_events_are_delivered_is_healthy() -> None:
    assert wrong(WELL) == {}
    assert summary(WELL) == "0 waiting; relay 17; 1.0 GB free"


def test_no_relay_is_needed_where_nothing_waits() -> None:
    idle = replace(WELL, relay=None, relay_since=None)
    assert wrong(idle) == {}
    assert wrong(idle, replace(LIMITS, relay=True)) == {"relay": "no relay runs"}


def test_a_relay_may_take_a_moment_to_start_and_no_longer() -> None:
    without = {"relay": None, "relay_since": None}
    assert wrong(waiting(3, 29.0, **without)) == {}  # type: ignore[arg-type]
    assert wrong(waiting(3, 30.0, **without)) == {"relay": "no relay runs, and 3 wait"}  # type: ignore[arg-type]


def test_a_relay_that_writes_nothing_while_events_wait_to_be_taken_in_is_stuck() -> None:
    assert wrong(waiting(3, 300.0)) == {"relay": "the relay (pid 17) has taken nothing in for 5 min"}


@pytest.mark.parametrize(
    "seen",
    [
        waiting(3, 300.0, written_at=NOW - 59),  # it is catching up
        waiting(3, 300.0, relay_since=NOW - 59),  # it has just begun
        waiting(3, 59.0),
        at_destination(pending=3, oldest_age=300.0),  # they are taken in; their destination is out
    ],
)
def test_a_relay_that_is_at_work_is_not_stuck(seen: Glance) -> None:
    assert wrong(seen) == {}


def test_events_may_wait_for_so_long_and_there_may_be_so_many() -> None:
    assert wrong(at_destination(pending=100, oldest_age=900.0)) == {}
    found = wrong(at_destination(pending=101, oldest_age=1200.0))
    assert found == {
        "age": "the oldest event has waited for 20 min (limit 15 min)",
        "pending": "101 deliveries wait (limit 100)",
    }


def test_what_waits_for_a_destination_that_is_configured_no_more_is_nobody_s_trouble() -> None:
    orphan = at_destination(active=False, pending=1000, oldest_age=90_000.0, state="paused", reason="401")
    assert wrong(orphan) == {}
    assert orphan.oldest_age is None


def test_a_destination_that_is_paused_is_named_with_the_reason_in_one_line() -> None:
    found = wrong(at_destination(state="paused", reason="401 bad\nkey" + "!" * 500, since=NOW - 300))
    assert found["paused"].startswith("trove has been paused for 5 min: 401 bad?key!!!")
    assert len(found["paused"]) < 200
    assert wrong(at_destination(state="out", reason="503")) == {}


def test_dead_letters_and_refused_events_of_before_are_history() -> None:
    found = wrong(replace(WELL, dead_lately=1))
    assert found == {"dead": "1 dead letter within 1 h (limit 0)"}
    assert wrong(replace(WELL, dead_lately=1), replace(LIMITS, dead=1)) == {}
    lost = replace(WELL, outbox=replace(WELL.outbox, refused=7), refused_at=NOW - 60)
    assert wrong(lost) == {"refused": "events are lost: 7 refused in all, the last 1 min ago"}
    assert wrong(replace(lost, refused_at=NOW - HOUR - 1)) == {}


def test_the_disk_is_short_before_it_is_full() -> None:
    found = wrong(replace(WELL, free_bytes=10**8 - 1))
    assert found == {"disk": "only 100.0 MB are free on the outbox's disk (limit 100.0 MB)"}


def test_a_file_that_was_set_aside_is_told_until_it_is_gone() -> None:
    seen = replace(WELL, outbox=replace(WELL.outbox, damaged=("ledger.db-1",)))
    assert wrong(seen) == {"damaged": "1 damaged file set aside in /outbox/damaged"}


def test_only_the_checks_that_are_asked_for_are_made() -> None:
    seen = replace(waiting(1000, 9000.0), refused_at=NOW)
    assert [one.name for one in findings(seen, LIMITS, ["pending", "refused"])] == ["refused", "pending"]


# What they are made from


@pytest.fixture
def files(tmp_path: Path) -> Iterator[OutboxFiles]:
    yield OutboxFiles(tmp_path / "outbox")
    close_producers()


def test_a_glance_is_the_same_for_another_process(files: OutboxFiles) -> None:
    producer(files).append(event("a"))
    seen = look(files)
    assert (seen.pending, seen.outbox.waiting, seen.relay, seen.written_at) == (1, 1, None, None)
    assert 0 <= (seen.oldest_age or -1.0) < 60
    assert seen.free_bytes > 0
    assert Glance.from_json(seen.to_json()) == seen
    assert Glance.from_json(WELL.to_json()) == WELL


def test_an_outbox_that_is_not_there_is_empty_at_a_glance_and_stays_away(files: OutboxFiles) -> None:
    seen = look(files)
    assert (seen.pending, seen.oldest_age, seen.relay, seen.refused_at) == (0, None, None, None)
    assert seen.free_bytes > 0
    assert not files.folder.exists()


def test_a_long_backlog_is_estimated_by_its_size(files: OutboxFiles) -> None:
    appender = producer(files, segment_bytes=20_000)
    for number in range(1000):
        appender.append(event(f"{number:04}", size=100))
    numbers = segment_numbers(files)
    assert len(numbers) > 5
    first = read_status(files).waiting_age
    for most in (10, 333):
        found = read_status(files, most=most)
        assert found.estimated
        assert found.waiting == pytest.approx(1000, rel=0.01)
        assert found.waiting_age == pytest.approx(first, abs=60)
    exact = read_status(files, most=1000)
    assert (exact.waiting, exact.estimated) == (1000, False)


def test_what_is_taken_in_is_no_part_of_a_backlog_that_is_estimated(files: OutboxFiles) -> None:
    appender = producer(files, segment_bytes=1 << 20)
    for number in range(100):
        appender.append(event(f"{number:04}"))
    (number,) = segment_numbers(files)
    size = segment_path(files, number).stat().st_size
    assert measure(files, [number], {number: size}, most=10).events == 0
    half = measure(files, [number], {number: size // 100 * 50}, most=10)
    assert (half.events, half.estimated) == (50, True)
    assert measure(files, [number, number + 1], {}, most=100).events == 100  # the last has just been deleted


def test_when_an_append_was_refused_last_is_known(files: OutboxFiles) -> None:
    assert refusals.last(files) is None
    producer(files).append(event("a"))  # makes the file while there is room for it
    refusals.prepare(files)
    assert refusals.last(files) is None
    refusals.count(files)
    os.utime(files.refused, (NOW, NOW))
    assert refusals.last(files) == NOW
    assert look(files).refused_at == NOW
