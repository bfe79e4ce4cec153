"""How many tries a lane has under way, as counted at the destination; and what commands make of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support_lanes import asked_about, name_of, order, rows
from tests.support_relay import (
    ThreadedRelay,
    account,
    all_once,
    append,
    leg,
    names_in,
    status_of,
    until,
)

from keepline.demo.destination import Answer, Received, RecordingDestination
from keepline.outbox.commands import Discard, Replay, Resume
from keepline.outbox.files import OutboxFiles
from keepline.outbox.sqlite import reading

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

Deliver = Callable[..., ThreadedRelay]


class Counting:
    """Answers, and writes down how many requests were in flight as each arrived."""

    def __init__(self, destination: RecordingDestination, answer: Answer) -> None:
        self.destination = destination
        self.answer = answer
        self.in_flight: list[int] = []

    def __call__(self, one: Received) -> Answer:
        self.in_flight.append(self.destination.in_flight)
        return self.answer


# How many at once


def test_a_lane_begins_with_few_at_once_and_comes_to_all_within_a_few_hundred_answers(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    counting = Counting(destination, Answer(201, delay=0.02))
    destination.answer_with(counting)
    append(outbox, map(str, range(600)))
    assert deliver({"a": leg(destination)}, max_connections=64).idle()
    assert counting.in_flight[:4] == [1, 2, 3, 4]
    # At most one more for each that was answered.
    assert all(many <= 4 + number for number, many in enumerate(counting.in_flight))
    assert max(counting.in_flight[:300]) == 64
    assert destination.in_flight_peak == 64
    assert destination.connections_peak <= 64


def test_a_few_events_at_a_time_go_over_a_few_connections(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(delay=0.01)
    relay = deliver({"a": leg(destination)}, max_connections=64)
    for _ in range(10):
        append(outbox, map(str, range(60)))
        assert relay.idle()
    assert len(destination.events) == 600
    assert destination.in_flight_peak == 4
    assert destination.connections_peak == 4


def test_after_an_outage_a_lane_opens_gradually_and_says_that_it_is_back(
    destination: RecordingDestination, outbox: Path, deliver: Deliver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    destination.answer(503)
    append(outbox, map(str, range(600)))
    relay = deliver({"a": leg(destination)}, max_connections=32)
    until(lambda: status_of(outbox, "a").state == "out")
    destination.wait_for(lambda d: len(d.received) >= 8 and d.in_flight == 0, 30)
    counting = Counting(destination, Answer(201, delay=0.03))
    destination.answer_with(counting)
    assert relay.idle()
    # The probe, one more, two, four ...
    assert counting.in_flight[:2] == [1, 1]
    assert all(many <= max(number, 1) for number, many in enumerate(counting.in_flight))
    assert max(counting.in_flight[:300]) == 32
    assert caplog.text.count("destination `a` is back") == 1


@pytest.mark.parametrize("code", [429, 503])
def test_a_destination_that_bears_only_so_many_at_once_gets_hardly_more(
    code: int, destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer_with(
        lambda one: Answer(code, delay=0.002) if destination.in_flight > 8 else Answer(201, delay=0.01)
    )
    events = append(outbox, map(str, range(1500)))
    relay = deliver({"a": leg(destination)}, max_connections=64, backoff_first=0.01, backoff_max=0.05)
    assert relay.idle()
    assert all_once(destination, events)
    refused = sum(one.status == code for one in destination.received)
    print(f"{refused} answers of {len(destination.received)} were {code}")
    assert refused < 120
    assert max(row.attempts for row in rows(outbox).values()) < 10


def test_a_destination_whose_latency_rises_with_the_load_is_not_pushed_further(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    counting: list[int] = []

    def choose(one: Received) -> Answer:
        counting.append(destination.in_flight)
        return Answer(201, delay=0.005 if destination.in_flight <= 8 else 0.3)

    destination.answer_with(choose)
    append(outbox, map(str, range(1500)))
    assert deliver({"a": leg(destination)}, max_connections=64).idle()
    assert sum(counting[-500:]) / 500 < 24


def test_the_bound_of_connections_is_shared_by_all_native_destinations(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    for one in (destination, other):
        one.answer(201, delay=0.01)
    append(outbox, map(str, range(200)))
    legs = {"a": leg(destination), "b": leg(other), "c": {"type": "console"}}
    assert deliver(legs, max_connections=12).idle()
    assert [one.connections_peak for one in (destination, other)] == [6, 6]


def test_each_destination_has_one_connection_at_least(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    events = append(outbox, map(str, range(50)))
    legs = {"a": leg(destination), "b": leg(other), "c": leg(other)}
    assert deliver(legs, max_connections=1).idle()
    assert all_once(destination, events)
    assert destination.connections_peak == 1
    assert other.connections_peak <= 2


# Commands


def identity(outbox: Path) -> str:
    with reading(OutboxFiles(outbox)) as connection:
        assert connection is not None
        return str(connection.execute("SELECT identity FROM ledger").get)


def test_what_is_replayed_is_delivered_again_and_nothing_else(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer_with(lambda one: Answer(400) if name_of(one) == "3" else Answer(201))
    append(outbox, map(str, range(100)), run=lambda n: f"run {n % 5}")
    relay = deliver({"a": leg(destination)})
    assert relay.idle()
    destination.clear()
    destination.answer(201)
    order(outbox, Replay(identity(outbox), "a", (1, 4, 6, 100)))
    destination.wait_for(lambda d: len(d.events) == 4, 30)
    assert relay.idle()
    assert Counter(names_in(destination)) == Counter(["0", "3", "5", "99"])
    of_one_run = [name for name in names_in(destination) if name in ("0", "5")]
    assert of_one_run == ["0", "5"]
    assert account(outbox) == {"delivered": 100, "dead": 0, "pending": 0}


def test_a_replay_under_load_begins_nothing_twice_that_is_under_way(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(201, delay=0.002)
    append(outbox, ["first"])
    relay = deliver({"a": leg(destination)}, max_connections=8)
    assert relay.idle()
    events = append(outbox, map(str, range(1500)), run=lambda n: f"run {n % 50}")
    again = Replay(identity(outbox), "a", (1,))
    for number in range(1, 11):
        destination.wait_for(lambda d: len(d.received) > number * 100, 30)  # noqa: B023 - waited for here
        order(outbox, again)
    assert relay.idle()
    until(lambda: account(outbox)["pending"] == 0)
    counted = Counter(asked_about(destination))
    assert counted.pop("first") >= 2
    assert counted == Counter(events)
    for run in range(50):
        of_run = [int(name) for name in names_in(destination) if name != "first" and int(name) % 50 == run]
        assert of_run == sorted(of_run)


def test_a_resume_has_a_destination_tried_at_once(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(401)
    append(outbox, map(str, range(10)))
    relay = deliver({"a": leg(destination)}, backoff_first=600, backoff_max=600)
    until(lambda: status_of(outbox, "a").state == "paused")
    destination.answer(201)
    order(outbox, Resume("another"))
    order(outbox, Resume("a"))
    assert relay.idle()
    assert account(outbox) == {"delivered": 10, "dead": 0, "pending": 0}


def test_commands_that_mean_nothing_here_change_nothing(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    append(outbox, ["one"])
    relay = deliver({"a": leg(destination)})
    assert relay.idle()
    order(outbox, Replay("another ledger", "a", (1,)))
    order(outbox, Replay(identity(outbox), "nobody", (1,)))
    order(outbox, Discard(identity(outbox), "a", (1,)))
    order(outbox, Replay(identity(outbox), "a", (77,)))
    append(outbox, ["two"])
    until(lambda: names_in(destination) == ["one", "two"])
    assert relay.idle()
    assert account(outbox) == {"delivered": 2, "dead": 0, "pending": 0}
