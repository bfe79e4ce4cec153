"""Poison: events on which a destination fails while it takes others."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.support_lanes import QUICK_TO_BURY, SLOW_TO_CHARGE, asked_about, name_of, order, rows
from tests.support_relay import (
    ThreadedRelay,
    account,
    append,
    dead_letters,
    leg,
    names_in,
    status,
    status_of,
    until,
)

from keepline.demo.destination import Answer, Fault, Received, RecordingDestination
from keepline.outbox.commands import Resume
from keepline.outbox.delivery import Ended
from keepline.outbox.ledger import Ledger

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

Deliver = Callable[..., ThreadedRelay]

_numbers = itertools.count(1_000_000)


CANT = Answer(500, body=b"can't")


def poison(choice: Answer | Fault = CANT) -> Callable[[Received], Answer | Fault]:
    """What to do about each request where events whose names begin with ``bad`` are poison."""
    return lambda one: choice if name_of(one).startswith("bad") else Answer(201)


def trickle(outbox: Path, condition: Callable[[], bool]) -> None:
    """Append a good event now and then until something is so."""

    def appended() -> bool:
        append(outbox, [f"good {next(_numbers)}"], run=lambda _: f"good run {next(_numbers)}")
        time.sleep(0.01)
        return condition()

    until(appended)


@pytest.mark.parametrize(
    ("choice", "timeout"),
    [
        (Answer(500), 5.0),
        (Answer(500, delay=0.2), 5.0),
        (Answer(503, delay=0.05), 5.0),
        (Fault.NO_ANSWER, 0.1),
        (Fault.SLOW_DRIP, 0.1),
    ],
    ids=str,
)
def test_one_poison_event_in_twenty_slows_a_lane_little_and_is_dead_in_the_end(
    choice: Answer | Fault, timeout: float, destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer_with(poison(choice))
    names = append(outbox, [f"{'good' if n % 20 else 'bad'} {n}" for n in range(2000)])
    good = {name for name in names if name.startswith("good")}
    began = time.monotonic()
    deliver(
        {"a": leg(destination, timeout=timeout)},
        max_connections=16,
        backoff_first=0.02,
        backoff_max=0.1,
        **QUICK_TO_BURY,
    )
    until(lambda: good <= set(names_in(destination)))
    took = time.monotonic() - began
    trickle(outbox, lambda: account(outbox)["dead"] == 100)
    print(f"{took:.1f} s for the good ones, {time.monotonic() - began:.1f} s until all poison was dead")
    # One that says it is overloaded is believed: it gets fewer at once, and a pause each time.
    assert took < (30 if choice == Answer(503, delay=0.05) else 10)
    assert Counter(names_in(destination)).most_common(1)[0][1] == 1
    found = rows(outbox)
    dead = {name for name, row in found.items() if row.state == 2}
    assert dead == set(names) - good
    assert all(found[name].charged >= 3 and found[name].attempts >= 3 for name in dead)


def test_a_flock_of_poison_events_keeps_the_others_waiting_only_shortly(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer_with(poison())
    append(outbox, ["good first"], run=lambda _: "first")
    relay = deliver({"a": leg(destination)}, backoff_first=0.5, backoff_max=30.0, **SLOW_TO_CHARGE)
    assert relay.idle()
    append(outbox, [f"bad {n}" for n in range(60)], run=lambda n: f"bad {n}")
    good = append(outbox, [f"good {n}" for n in range(100)], run=lambda n: f"good {n}")
    began = time.monotonic()
    until(lambda: set(good) <= set(names_in(destination)))
    print(f"{time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < 10


def test_a_poison_event_is_dead_with_its_last_answer_and_its_run_goes_on_in_order(
    destination: RecordingDestination, outbox: Path, deliver: Deliver, caplog: pytest.LogCaptureFixture
) -> None:
    destination.answer_with(poison())
    append(outbox, ["before", "bad", "after", "end"], run=lambda _: "one run")
    deliver({"a": leg(destination)}, **QUICK_TO_BURY)
    trickle(outbox, lambda: account(outbox)["dead"] == 1)
    until(lambda: "end" in names_in(destination))
    of_the_run = [name for name in asked_about(destination) if not name.startswith("good")]
    assert list(dict.fromkeys(of_the_run)) == ["before", "bad", "after", "end"]
    assert dead_letters(outbox) == ["HTTP 500: can't"]
    row = rows(outbox)["bad"]
    assert row.attempts == Counter(of_the_run)["bad"] >= 3
    assert row.status == 500
    assert row.first_at is not None
    assert row.charged_at is not None
    assert row.first_at <= row.charged_at
    assert "fails on an event and takes others: HTTP 500: can't" in caplog.text


def test_a_first_failure_costs_the_others_no_pause(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer_with(poison())
    good = append(outbox, [f"good {n}" for n in range(20)])
    relay = deliver({"a": leg(destination)}, backoff_first=600, backoff_max=600, **SLOW_TO_CHARGE)
    assert relay.idle()
    # The one that comes after it tells at once that the destination is well.
    append(outbox, ["bad 1"], run=lambda _: "bad 1")
    until(lambda: "bad 1" in asked_about(destination))
    good += append(outbox, [f"more {n}" for n in range(20)], run=lambda n: f"more {n}")
    until(lambda: set(names_in(destination)) == set(good))
    until(lambda: rows(outbox)["bad 1"].charged == 1)
    assert status_of(outbox, "a").state == "open"


def test_a_destination_that_fails_on_everything_is_out_and_nobody_is_charged_however_long(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    append(outbox, [f"early {n}" for n in range(20)])
    relay = deliver({"a": leg(destination)}, max_connections=8, poison_attempts=2, poison_after=0.01)
    assert relay.idle()
    destination.answer(500, delay=0.005)
    append(outbox, [f"late {n}" for n in range(30)], run=lambda n: f"late {n}")
    until(lambda: status_of(outbox, "a").state == "out")
    # Those that were under way at first have ended; from here on it is one probe at a time.
    destination.wait_for(lambda d: d.in_flight == 0, 30)
    destination.clear()
    destination.wait_for(lambda d: len(d.received) >= 60, 30)
    assert destination.in_flight_peak == 1
    found = {name: row for name, row in rows(outbox).items() if name.startswith("late")}
    assert len(found) == 30
    assert all(row.state == 0 and row.charged == 0 for row in found.values())
    # What was tried is told all the same.
    assert sum(row.attempts for row in found.values()) > 30
    assert {row.answer for row in found.values() if row.attempts} == {"HTTP 500"}
    destination.answer(201)
    assert relay.idle()
    assert account(outbox) == {"delivered": 50, "dead": 0, "pending": 0}
    assert all(row.charged <= 1 for row in rows(outbox).values())


def test_a_poison_event_that_is_left_alone_is_never_dead(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer_with(poison())
    append(outbox, ["good", "bad"])
    deliver({"a": leg(destination)}, **QUICK_TO_BURY)
    destination.wait_for(lambda d: len(d.received) >= 20, 30)
    assert account(outbox) == {"delivered": 1, "dead": 0, "pending": 1}
    assert rows(outbox)["bad"].charged <= 1
    # And once others flow again, they tell that it is to blame.
    trickle(outbox, lambda: account(outbox)["dead"] == 1)


@pytest.mark.parametrize(
    "choice", [Answer(408), Answer(425), Answer(429), Fault.RESET_BEFORE_ANSWER, Fault.GARBAGE], ids=str
)
def test_what_says_nothing_of_the_event_never_charges_it(
    choice: Answer | Fault, destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer_with(poison(choice))
    append(outbox, ["bad"])
    deliver({"a": leg(destination)}, backoff_first=0.002, backoff_max=0.005, **QUICK_TO_BURY)
    trickle(outbox, lambda: asked_about(destination).count("bad") >= 10)
    row = rows(outbox)["bad"]
    assert (row.state, row.charged) == (0, 0)
    until(lambda: rows(outbox)["bad"].attempts >= 9)


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(6, 0.001), (2, 1.0)], ids=["many attempts", "a long time"]
)
def test_the_budget_is_used_up_once_both_the_attempts_and_the_time_are(
    attempts: int, seconds: float, destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer_with(poison())
    append(outbox, ["bad"])
    deliver({"a": leg(destination)}, poison_attempts=attempts, poison_after=seconds)
    trickle(outbox, lambda: account(outbox)["dead"] == 1)
    at = [one.at for one in destination.received if name_of(one) == "bad"]
    assert len(at) >= attempts
    assert at[-1] - at[0] >= seconds * 0.9


def test_charges_are_counted_on_by_the_next_relay(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer_with(poison())
    append(outbox, ["bad"])
    relay = deliver({"a": leg(destination)}, poison_attempts=8, poison_after=0.001)
    trickle(outbox, lambda: rows(outbox)["bad"].charged >= 4)
    relay.stop()
    before = rows(outbox)["bad"]
    destination.clear()
    deliver({"a": leg(destination)}, poison_attempts=8, poison_after=0.001)
    trickle(outbox, lambda: account(outbox)["dead"] == 1)
    after = rows(outbox)["bad"]
    assert after.charged == 8
    assert after.first_at == before.first_at
    assert after.charged_at == before.charged_at
    assert after.attempts == before.attempts + asked_about(destination).count("bad")


@pytest.mark.parametrize("size", [0, 5000])
def test_thousands_of_events_behind_a_poison_one_keep_no_other_run_out(
    size: int, destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer_with(poison())
    blocked = ["bad", *(f"{n:04d}" for n in range(3000))]
    append(outbox, blocked, run=lambda _: "one run", size=size)
    good = append(outbox, [f"good {n}" for n in range(300)], run=lambda n: f"good {n}", size=size)
    deliver({"a": leg(destination)}, max_connections=8, poison_attempts=5, poison_after=2)
    until(lambda: set(good) <= set(names_in(destination)))
    assert account(outbox) == {"delivered": 300, "dead": 0, "pending": 3001}
    trickle(outbox, lambda: account(outbox)["dead"] == 1)
    until(lambda: "2999" in names_in(destination))
    of_the_run = [name for name in asked_about(destination) if not name.startswith("good")]
    assert [name for name in of_the_run if name != "bad"] == blocked[1:]


def test_a_resume_ends_an_event_s_own_pause(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    broken = True
    destination.answer_with(lambda one: poison()(one) if broken else Answer(201))
    append(outbox, ["good", "bad", "other"])
    deliver({"a": leg(destination)}, backoff_first=600, backoff_max=600, **SLOW_TO_CHARGE)
    trickle(outbox, lambda: rows(outbox)["bad"].charged == 1)
    broken = False
    trickle(outbox, lambda: len(names_in(destination)) > 10)
    assert "bad" not in names_in(destination)
    order(outbox, Resume(None))
    until(lambda: "bad" in names_in(destination))
    until(lambda: account(outbox)["pending"] == 0)


def test_an_event_that_takes_longer_than_others_gets_the_time_that_it_needs(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer_with(poison(Answer(201, delay=0.5)))
    append(outbox, ["good", "bad", "other"])
    deliver({"a": leg(destination, timeout=0.2)}, **SLOW_TO_CHARGE)
    trickle(outbox, lambda: "bad" in names_in(destination))
    assert asked_about(destination).count("bad") <= 5


def test_a_record_that_is_gone_is_dead_at_once_and_its_run_goes_on(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.down()
    append(outbox, ["one", "damaged", "three"], run=lambda _: "one run")
    relay = deliver({"a": leg(destination)})
    until(lambda: status_of(outbox, "a").state == "out")
    relay.stop()
    (segment,) = (outbox / "journal").glob("*.seg")
    data = segment.read_bytes()
    at = data.index(b'"damaged"')
    segment.write_bytes(data[:at] + b"X" + data[at + 1 :])
    destination.up()
    assert deliver({"a": leg(destination)}).idle()
    assert names_in(destination) == ["one", "three"]
    assert dead_letters(outbox) == ["its record in the outbox is damaged or gone"]
    assert rows(outbox)["damaged"].attempts == 0


def test_records_that_are_gone_are_buried_a_few_at_a_time_and_what_follows_is_delivered(
    destination: RecordingDestination, outbox: Path, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination.answer(503)
    append(outbox, map(str, range(500)), segment_bytes=1 << 16)
    relay = deliver({"a": leg(destination)}, segment_bytes=1 << 16)
    until(lambda: account(outbox)["pending"] == 500 and not status(outbox).waiting)
    relay.stop()
    for folder in ("journal", "archive"):
        for segment in (outbox / folder).glob("*.seg"):
            segment.unlink()
    at_once: list[int] = []
    end = Ledger.end

    def counted(self: Ledger, ended: Sequence[Ended], at: float) -> None:
        at_once.append(len(ended))
        end(self, ended, at)

    monkeypatch.setattr(Ledger, "end", counted)
    destination.answer(201)
    append(outbox, ["one more"])
    assert deliver({"a": leg(destination)}).idle()
    assert names_in(destination) == ["one more"]
    assert account(outbox) == {"delivered": 1, "dead": 500, "pending": 0}
    assert max(at_once) <= 2 * 64
