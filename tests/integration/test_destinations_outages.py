"""Outages: nothing is lost or charged, the lane backs off, sends one probe at a time, and recovers."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest
from tests.support_relay import (
    ThreadedRelay,
    account,
    all_there,
    append,
    leg,
    names_in,
    settled,
    status_of,
    until,
)

from keepline.demo.destination import Answer, Fault, Received, RecordingDestination
from keepline.destinations import http

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

Deliver = Callable[..., ThreadedRelay]

EVENTS, RUNS = 60, 12


def append_runs(outbox: Path) -> list[str]:
    """Events of a few runs, named so that their order shows: ``<run>:<number>``."""
    names = [f"{number % RUNS}:{number // RUNS:03d}" for number in range(EVENTS)]
    return append(outbox, names, run=lambda number: f"run {number % RUNS}")


def in_order(names: list[str]) -> bool:
    """Whether each run's events came in the order of appending, leaving out what came again."""
    by_run = defaultdict(list)
    for name in dict.fromkeys(names):
        run, number = name.split(":")
        by_run[run].append(number)
    return all(numbers == sorted(numbers) for numbers in by_run.values())


def outage(
    destination: RecordingDestination, outbox: Path, relay: ThreadedRelay, end: Callable[[], None]
) -> None:
    """See an outage through that has begun: what the lane says of it, and what comes of it once it ends."""
    until(lambda: status_of(outbox, "a").state == "out")
    assert account(outbox) == {"delivered": 0, "dead": 0, "pending": EVENTS}
    assert status_of(outbox, "a").reason
    end()
    assert relay.idle()
    assert all_there(destination, {f"{number % RUNS}:{number // RUNS:03d}" for number in range(EVENTS)})
    assert in_order(names_in(destination))
    assert account(outbox) == {"delivered": EVENTS, "dead": 0, "pending": 0}
    assert (status_of(outbox, "a").state, status_of(outbox, "a").reason) == ("open", "")


def one_probe_at_a_time(destination: RecordingDestination) -> None:
    destination.wait_for(lambda d: d.in_flight == 0, 30)
    destination.clear()
    destination.wait_for(lambda d: len(d.received) >= 3, 30)
    assert destination.in_flight_peak <= 1


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504, 599])
def test_an_outage_by_status(
    code: int, destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(code, delay=0.005)
    append_runs(outbox)
    relay = deliver({"a": leg(destination)}, max_connections=8)
    until(lambda: status_of(outbox, "a").state == "out")
    one_probe_at_a_time(destination)
    outage(destination, outbox, relay, lambda: destination.answer(201))


@pytest.mark.parametrize("fault", list(Fault))
def test_an_outage_by_a_fault_of_the_connection(
    fault: Fault, destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.fault(fault)
    append_runs(outbox)
    relay = deliver({"a": leg(destination, timeout=0.1)}, max_connections=8)
    until(lambda: status_of(outbox, "a").state == "out")
    if fault is not Fault.CLOSE_ON_ACCEPT:  # of which no request arrives
        one_probe_at_a_time(destination)
    outage(destination, outbox, relay, lambda: destination.answer(201))


def test_an_outage_by_refused_connections_of_a_destination_that_goes_down_under_load(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.down()
    append_runs(outbox)
    outage(destination, outbox, deliver({"a": leg(destination)}), destination.up)


def test_an_outage_by_a_name_that_means_no_host(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    append_runs(outbox)
    relay = deliver({"a": leg("http://nowhere.invalid"), "b": leg(destination)})
    until(lambda: status_of(outbox, "a").state == "out")
    assert "Could not resolve host: nowhere.invalid" in status_of(outbox, "a").reason
    assert account(outbox) == {"delivered": 0, "dead": 0, "pending": EVENTS}
    until(lambda: account(outbox, "b")["delivered"] == EVENTS)
    relay.stop()


def test_an_outage_by_a_certificate_that_nobody_has_signed(
    secure: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    append_runs(outbox)
    deliver({"a": leg(secure)})
    until(lambda: status_of(outbox, "a").state == "out")
    assert "certificate" in status_of(outbox, "a").reason
    assert account(outbox) == {"delivered": 0, "dead": 0, "pending": EVENTS}
    assert secure.received == []


def test_an_outage_that_comes_and_goes_under_load_loses_nothing(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    relay = deliver({"a": leg(destination)}, max_connections=8)
    appended: list[str] = []
    destination.answer(201, delay=0.005)
    for turn in range(1, 7):
        destination.down()
        names = [f"{number % RUNS}:{turn}{number:04d}" for number in range(100)]
        appended += append(outbox, names, run=lambda number: f"run {number % RUNS}")
        until(lambda: status_of(outbox, "a").state == "out")
        destination.up()
        destination.wait_for(lambda d: len(d.received) >= 60 * turn, 30)  # noqa: B023 - waited for here
    assert relay.idle()
    assert all_there(destination, appended)
    assert in_order(names_in(destination))


def test_a_storm_of_faults_loses_nothing_and_leaves_nothing_open(
    destination: RecordingDestination, outbox: Path, deliver: Deliver, capfd: pytest.CaptureFixture[str]
) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    chance = random.Random(5)
    quick = [
        Fault.RESET_BEFORE_ANSWER,
        Fault.CLOSE_BEFORE_ANSWER,
        Fault.RESET_MID_BODY,
        Fault.ENDLESS_BODY,
        Fault.GARBAGE,
        Answer(503),
        Answer(500),
        Answer(502, delay=0.01),
        Answer(429),
        Answer(201, headers=(("Connection", "close"),)),
    ]
    destination.answer_with(lambda one: chance.choice([Answer(201, delay=0.001)] * 4 + quick))
    names = append(outbox, [f"{n % RUNS}:{n:05d}" for n in range(600)], run=lambda n: f"run {n % RUNS}")
    relay = deliver({"a": leg(destination)}, max_connections=16, backoff_first=0.001, backoff_max=0.002)
    assert relay.idle()
    assert all_there(destination, names)
    assert in_order(names_in(destination))
    relay.stop()
    destination.wait_for(lambda d: d.connections_open == 0, 30)
    until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before)
    # What goes wrong in a callback of libcurl's is printed there, and nowhere else.
    assert capfd.readouterr().err == ""


def test_a_lane_that_is_out_does_not_slow_the_others(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.fault(Fault.NO_ANSWER)
    names = append(outbox, map(str, range(500)))
    relay = deliver({"a": leg(destination), "b": leg(other)})
    until(lambda: account(outbox, "b")["delivered"] == 500)
    assert all_there(other, names)
    assert account(outbox, "a") == {"delivered": 0, "dead": 0, "pending": 500}
    relay.stop()


def test_an_event_that_the_destination_always_fails_on_keeps_no_other_run_waiting_for_good(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer_with(lambda one: Answer(500 if name_of(one).startswith("0:") else 201))
    append_runs(outbox)
    deliver({"a": leg(destination)})
    others = EVENTS - EVENTS // RUNS
    until(lambda: account(outbox) == {"delivered": others, "dead": 0, "pending": EVENTS // RUNS})
    assert in_order(names_in(destination))
    # Of its own run none overtook it.
    assert {name_of(one) for one in destination.received if one.status == 500} == {"0:000"}


# Pauses


def test_pauses_grow_while_a_destination_is_out(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(503)
    append(outbox, ["one"])
    deliver({"a": leg(destination)}, backoff_first=0.02, backoff_max=0.5)
    destination.wait_for(lambda d: len(d.received) >= 8, 30)
    at = [one.at for one in destination.received]
    gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
    # The n-th pause is drawn from a tenth to the whole of 0.02 s times two to the n-1, capped at 0.5 s.
    for number, gap in enumerate(gaps):
        assert gap >= min(0.02 * 2**number, 0.5) / 10 * 0.9


@pytest.fixture(params=["libcurl tells", "a pycurl that has no name for it"])
def any_pycurl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads Retry-After: libcurl, or we where pycurl can't ask it."""
    if request.param != "libcurl tells":
        monkeypatch.setattr(http, "_TELLS_RETRY_AFTER", False)


@pytest.mark.usefixtures("any_pycurl")
@pytest.mark.parametrize(("code", "as_date"), [(429, False), (503, False), (403, False), (429, True)])
def test_retry_after_is_honoured_for_the_whole_destination(
    code: int, as_date: bool, destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    # A date has whole seconds: of the third from now on, at least one is left.
    after = formatdate(time.time() + 3, usegmt=True) if as_date else "1"
    destination.answer(201, delay=0.05)
    destination.answer(code, headers=[("Retry-After", after)], times=1)
    names = append(outbox, map(str, range(12)))
    relay = deliver({"a": leg(destination)}, max_connections=4)
    assert relay.idle()
    assert all_there(destination, names)
    at = [one.at for one in destination.received]
    # One is told to wait while three others are under way: nothing begins before that is over.
    assert [moment - at[0] < 0.9 for moment in at] == [True] * 4 + [False] * 9


@pytest.mark.usefixtures("any_pycurl")
def test_a_huge_retry_after_is_capped(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(503, headers=[("Retry-After", "99999999999")], times=1)
    append(outbox, ["one"])
    relay = deliver({"a": leg(destination)}, retry_after_max=0.5)
    assert relay.idle()
    first, second = (one.at for one in destination.received)
    assert second - first >= 0.5


@pytest.mark.usefixtures("any_pycurl")
@pytest.mark.parametrize("text", ["-1", "soon", "", "1e9", "Wed, 99 Foo 2026 99:99:99 GMT"])
def test_a_retry_after_that_makes_no_sense_is_ignored(
    text: str, destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(503, headers=[("Retry-After", text)], times=3)
    append(outbox, ["one"])
    relay = deliver({"a": leg(destination)}, retry_after_max=1000)
    assert relay.idle()
    assert [one.status for one in destination.received] == [503, 503, 503, 201]


# Who decides about the state


def test_an_answer_to_what_was_sent_before_the_outage_does_not_end_it(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    late = {"slow": Answer(201, delay=0.3)}
    destination.answer_with(lambda one: late.get(name_of(one), Answer(503, headers=(("Retry-After", "1"),))))
    append(outbox, ["slow", "one", "two"])
    deliver({"a": leg(destination)}, max_connections=2)
    until(lambda: account(outbox)["delivered"] == 1)
    assert status_of(outbox, "a").state == "out"
    assert sum(name_of(one) != "slow" for one in destination.received) == 1


def test_a_timeout_of_what_was_sent_before_the_outage_does_not_begin_another(
    destination: RecordingDestination, outbox: Path, deliver: Deliver, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([Fault.NO_ANSWER, Answer(503)])
    destination.answer_with(lambda one: next(answers, Answer(201)))
    names = append(outbox, ["stuck", *map(str, range(200))])
    relay = deliver({"a": leg(destination, timeout=1.0)}, max_connections=2)
    assert relay.idle()
    assert all_there(destination, names)
    assert caplog.text.count("destination `a` is out") == 1


def name_of(request: Received) -> str:
    return str(json.loads(request.body)["job"]["name"])


def test_an_endpoint_that_is_slower_than_its_timeout_gets_the_time_that_it_needs(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(201, delay=0.5)
    names = append(outbox, map(str, range(8)))
    relay = deliver({"a": leg(destination, timeout=0.2)}, max_connections=2)
    assert relay.idle()
    assert all_there(destination, names)
    # Two run out of time, then one probe does; what goes after those gets its answer.
    assert len(destination.received) <= 8 + 3


def test_an_outage_that_began_before_the_relay_goes_on_after_it(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.down()
    names = append_runs(outbox)
    relay = deliver({"a": leg(destination)})
    until(lambda: status_of(outbox, "a").state == "out")
    relay.stop()
    assert account(outbox) == {"delivered": 0, "dead": 0, "pending": EVENTS}
    destination.up()
    assert deliver({"a": leg(destination)}).idle()
    assert all_there(destination, names)
    assert settled(outbox)
