"""Failover: of several destinations that stand in for one another, the first that accepts an event has it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support_lanes import QUICK_TO_BURY, SLOW_TO_CHARGE, asked_about, name_of, order, rows
from tests.support_relay import (
    ThreadedRelay,
    account,
    all_once,
    append,
    leg,
    names_in,
    status,
    status_of,
    until,
)

from keepline.demo.destination import Answer, Fault, RecordingDestination
from keepline.outbox.commands import Replay, Resume
from keepline.outbox.files import OutboxFiles
from keepline.outbox.sqlite import reading

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

Deliver = Callable[..., ThreadedRelay]

FAILOVER = {"continue_on_success": False}


def names(count: int, start: int = 0) -> list[str]:
    """Names of events of seven runs: ``<run>:<number>``."""
    return [f"{n % 7}:{n:05d}" for n in range(start, start + count)]


def append_runs(outbox: Path, count: int, start: int = 0) -> list[str]:
    return append(outbox, names(count, start), run=lambda n: f"run {(start + n) % 7}")


def in_order(arrived: list[str]) -> bool:
    by_run = defaultdict(list)
    for name in dict.fromkeys(arrived):
        by_run[name.partition(":")[0]].append(name)
    return all(of_run == sorted(of_run) for of_run in by_run.values())


def test_the_first_gets_all_and_the_others_nothing_while_it_is_well(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    events = append_runs(outbox, 200)
    assert deliver({"a": leg(destination), "b": leg(other)}, **FAILOVER).idle()
    assert all_once(destination, events)
    assert in_order(names_in(destination))
    assert other.received == []
    assert account(outbox) == {"delivered": 200, "dead": 0, "pending": 0}
    assert {(row.destination, row.status, row.answer) for row in rows(outbox).values()} == {("a", 201, "")}


@pytest.mark.parametrize(("high", "low"), [("a", "b"), ("b", "a")])
def test_priority_says_which_is_first_where_the_transports_are_sorted(
    high: str,
    low: str,
    destination: RecordingDestination,
    other: RecordingDestination,
    outbox: Path,
    deliver: Deliver,
) -> None:
    append_runs(outbox, 10)
    legs = {"a": leg(destination), "b": leg(other)}
    legs[high]["priority"], legs[low]["priority"] = 2, 1
    assert deliver(legs, sort_transports=True, **FAILOVER).idle()
    assert {row.destination for row in rows(outbox).values()} == {high}


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        (Answer(503), "HTTP 503"),
        (Answer(500), "HTTP 500"),
        (Answer(429), "HTTP 429"),
        (Answer(401), "HTTP 401"),
        (Answer(302), "HTTP 302"),
        (Fault.RESET_BEFORE_ANSWER, "reset"),
        (Fault.NO_ANSWER, "timed out"),
    ],
    ids=str,
)
def test_the_next_takes_over_while_the_first_is_out_and_the_first_once_it_is_back(
    choice: Answer | Fault,
    reason: str,
    destination: RecordingDestination,
    other: RecordingDestination,
    outbox: Path,
    deliver: Deliver,
) -> None:
    destination.answer_with(lambda one: choice)
    events = append_runs(outbox, 100)
    relay = deliver({"a": leg(destination, timeout=0.2), "b": leg(other)}, max_connections=8, **FAILOVER)
    assert relay.idle()
    assert all_once(other, events)
    assert in_order(names_in(other))
    assert account(outbox, "b") == {"delivered": 100, "dead": 0, "pending": 0}
    found = rows(outbox)
    assert {row.destination for row in found.values()} == {"b"}
    assert all(re.search(f"^a: .*{reason}", row.answer) for row in found.values())
    assert status_of(outbox, "a").state == ("paused" if reason in ("HTTP 401", "HTTP 302") else "out")
    assert reason in status_of(outbox, "a").reason
    assert status_of(outbox, "b").state == "open"
    # What the first was asked meanwhile were probes, few beside what the other took.
    assert len(destination.received) < 30
    destination.answer(201)
    done = 100
    while not names_in(destination):
        append_runs(outbox, 10, done)
        done += 10
        assert relay.idle()
    other.clear()
    more = append_runs(outbox, 100, done)
    assert relay.idle()
    assert set(more) <= set(names_in(destination))
    assert other.received == []
    assert status_of(outbox, "a").state == "open"


def test_only_one_probe_at_a_time_is_sent_to_one_that_is_out(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(503)
    relay = deliver(
        {"a": leg(destination), "b": leg(other)}, max_connections=32, backoff_max=0.02, **FAILOVER
    )
    append(outbox, ["first"])
    assert relay.idle()
    destination.clear()
    destination.answer(503, delay=0.02)
    events = append_runs(outbox, 2000)
    assert relay.idle()
    assert len(destination.received) > 2
    assert destination.in_flight_peak == 1
    assert all_once(other, ["first", *events])
    assert in_order(names_in(other))


def test_what_the_first_refuses_the_next_is_asked_for_and_the_order_holds(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    refused = {name for n, name in enumerate(names(300)) if n % 3 == 0}
    destination.answer_with(lambda one: Answer(422, body=b"no") if name_of(one) in refused else Answer(201))
    arrived: list[str] = []
    other.answer_with(lambda one: arrived.append(name_of(one)) or Answer(201))  # type: ignore[func-returns-value]
    events = append_runs(outbox, 300)
    assert deliver({"a": leg(destination), "b": leg(other)}, **FAILOVER).idle()
    assert Counter(names_in(destination)) + Counter(names_in(other)) == Counter(events)
    assert set(names_in(other)) == refused
    assert in_order(asked_about(destination))
    assert in_order(arrived)
    found = rows(outbox)
    assert {found[name].answer for name in refused} == {"a: HTTP 422: no"}
    assert {found[name].attempts for name in refused} == {2}
    assert status_of(outbox, "a").state == "open"


def test_what_all_refuse_is_dead_with_the_answer_of_each(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer_with(lambda one: Answer(400, body=b"not me") if name_of(one) == "bad" else Answer(201))
    other.answer_with(lambda one: Answer(422, body=b"nor me") if name_of(one) == "bad" else Answer(201))
    append(outbox, ["before", "bad", "after"], run=lambda _: "one run")
    assert deliver({"a": leg(destination), "b": leg(other)}, **FAILOVER).idle()
    assert names_in(destination) == ["before", "after"]
    assert account(outbox) == {"delivered": 2, "dead": 1, "pending": 0}
    dead = rows(outbox)["bad"]
    assert (dead.answer, dead.status) == ("a: HTTP 400: not me; b: HTTP 422: nor me", 422)


def test_while_all_are_out_everything_waits_and_nothing_is_lost(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.down()
    other.answer(503)
    events = append_runs(outbox, 500)
    relay = deliver({"a": leg(destination), "b": leg(other)}, max_connections=8, **FAILOVER, **QUICK_TO_BURY)
    until(lambda: {one.state for one in status(outbox).destinations} == {"out"})
    other.wait_for(lambda d: len(d.received) >= 10, 30)
    assert other.in_flight_peak <= 4
    assert account(outbox) == {"delivered": 0, "dead": 0, "pending": 500}
    other.answer(201)
    assert relay.idle()
    assert all_once(other, events)
    assert in_order(names_in(other))


def test_what_one_refuses_and_another_can_t_take_now_waits_alone_and_is_never_dead(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer_with(lambda one: Answer(400) if name_of(one).startswith("bad") else Answer(201))
    other.answer(500)
    bad = append(outbox, [f"bad {n}" for n in range(30)], run=lambda n: f"bad {n}")
    relay = deliver({"a": leg(destination), "b": leg(other)}, max_connections=8, **FAILOVER, **QUICK_TO_BURY)
    other.wait_for(lambda d: len(d.received) >= 3, 30)
    good = append(outbox, [f"good {n}" for n in range(500)], run=lambda n: f"good {n}")
    until(lambda: set(names_in(destination)) == set(good))
    remembered = relay._relay._lanes._failover._remembered
    until(lambda: len(remembered) >= 20)
    # Who has said what of them, and not what was said of: there can be many, and they can be large.
    assert not any(turn.one.body for turn in list(remembered.values()))
    other.wait_for(lambda d: len(d.received) >= 10, 30)
    assert account(outbox) == {"delivered": 500, "dead": 0, "pending": 30}
    # Nobody is asked again who has refused.
    assert Counter(asked_about(destination)).most_common(1)[0][1] == 1
    other.answer(201)
    assert relay.idle()
    assert all_once(other, bad)


def test_what_all_fail_on_while_they_take_others_is_poison(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    for one in (destination, other):
        one.answer_with(lambda one: Answer(500) if name_of(one) == "bad" else Answer(201))
    append(outbox, ["good", "bad", "after"], run=lambda n: "good" if n == 0 else "one run")
    deliver({"a": leg(destination), "b": leg(other)}, **FAILOVER, **QUICK_TO_BURY)
    number = 0

    def dead() -> bool:
        nonlocal number
        number += 1
        append(outbox, [f"more {number}"], run=lambda _: f"more {number}")
        return account(outbox)["dead"] == 1

    until(dead)
    until(lambda: "after" in names_in(destination) + names_in(other))
    assert rows(outbox)["bad"].answer == "a: HTTP 500; b: HTTP 500"


def test_a_poison_event_of_the_first_is_the_next_one_s_and_the_first_goes_on(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer_with(lambda one: Answer(500) if name_of(one).startswith("bad") else Answer(201))
    append(outbox, ["first"])
    relay = deliver(
        {"a": leg(destination), "b": leg(other)},
        backoff_first=600,
        backoff_max=600,
        **FAILOVER,
        **SLOW_TO_CHARGE,
    )
    assert relay.idle()
    append(outbox, [f"{'bad' if n % 10 == 5 else 'good'} {n}" for n in range(200)], run=lambda n: f"run {n}")
    assert relay.idle()
    assert {name for name in names_in(other) if name.startswith("bad")} == {
        f"bad {n}" for n in range(200) if n % 10 == 5
    }
    assert len([name for name in names_in(destination) if name.startswith("good")]) > 50


def test_a_try_that_ran_out_of_time_at_the_first_may_arrive_at_both(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(201, delay=0.6)
    append(outbox, ["one"])
    assert deliver({"a": leg(destination, timeout=0.2), "b": leg(other)}, **FAILOVER).idle()
    assert names_in(other) == ["one"]
    assert asked_about(destination) == ["one"]


def test_what_waited_for_the_second_before_they_stood_in_for_one_another_is_delivered(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    other.down()
    events = append_runs(outbox, 20)
    legs = {"a": leg(destination), "b": leg(other)}
    relay = deliver(legs)
    until(lambda: account(outbox)["delivered"] == 20)
    relay.stop()
    assert account(outbox, "b")["pending"] == 20
    destination.clear()
    assert deliver(legs, **FAILOVER).idle()
    assert all_once(destination, events)
    assert account(outbox) == {"delivered": 20, "dead": 0, "pending": 0}
    assert account(outbox, "b") == {"delivered": 0, "dead": 0, "pending": 0}


def test_a_replay_at_any_of_them_delivers_again_to_the_first_that_accepts(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(503)
    append(outbox, ["one"])
    relay = deliver({"a": leg(destination), "b": leg(other)}, **FAILOVER)
    assert relay.idle()
    assert account(outbox, "b")["delivered"] == 1
    destination.answer(201)
    order(outbox, Resume("a"))
    append(outbox, ["two"])
    until(lambda: "two" in names_in(destination) + names_in(other))
    assert relay.idle()
    with reading(OutboxFiles(outbox)) as connection:
        assert connection is not None
        identity = str(connection.execute("SELECT identity FROM ledger").get)
    destination.clear()
    other.clear()
    order(outbox, Replay(identity, "b", (1,)))
    until(lambda: names_in(destination) + names_in(other) == ["one"])
    assert relay.idle()
    assert sum(account(outbox, name)["delivered"] for name in "ab") == 2


def test_a_relay_ends_at_once_while_all_are_out(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.down()
    other.down()
    append_runs(outbox, 50)
    relay = deliver({"a": leg(destination), "b": leg(other)}, stop_timeout=600, **FAILOVER)
    until(lambda: {one.state for one in status(outbox).destinations} == {"out"})
    relay.stop()
    assert account(outbox)["pending"] == 50
