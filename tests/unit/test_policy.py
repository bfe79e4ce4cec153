"""What an answer means, and how long to wait."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from keepline.destinations.base import Answer, Passed
from keepline.relay.policy import (
    LONGEST_DEADLINE,
    Verdict,
    chance,
    charges,
    deadline_after,
    hurries,
    judge,
    longer_deadline,
    overloaded,
    pause,
    poisoned,
    retry_after_seconds,
    suspect_deadline,
)

NOW = 1_800_000_000.0


def by_table(status: int) -> Verdict:
    """The design's table, row by row."""
    if 200 <= status <= 299:
        return Verdict.DELIVERED
    if status in (401, 403, 404, 405, 407) or 300 <= status <= 399:
        return Verdict.MISCONFIGURED
    if status in (408, 425, 429) or 500 <= status <= 999:
        return Verdict.OUT
    return Verdict.REFUSED


def test_each_status_means_what_the_design_says() -> None:
    statuses = range(200, 1000)
    assert {status: judge(Answer(status=status)) for status in statuses} == {
        status: by_table(status) for status in statuses
    }


@pytest.mark.parametrize("status", [400, 406, 409, 410, 413, 415, 418, 422, 451])
def test_a_refusal_is_the_event_s(status: int) -> None:
    assert judge(Answer(status=status)) is Verdict.REFUSED


def test_no_answer_means_out_whatever_kept_it() -> None:
    assert judge(Answer(error="connection refused")) is Verdict.OUT
    assert judge(Answer(error="too late", timed_out=True)) is Verdict.OUT


def test_a_transport_without_statuses_accepts_or_refuses() -> None:
    assert judge(Answer(accepted=True)) is Verdict.DELIVERED
    assert judge(Answer(error="not this one", refused=True)) is Verdict.REFUSED


def test_an_event_that_none_of_several_takes_now_waits_by_itself() -> None:
    assert judge(Answer(error="a: HTTP 400; b: out", passed=Passed(2, later=True))) is Verdict.LATER
    assert judge(Answer(error="a: no; b: no", refused=True, passed=Passed(2))) is Verdict.REFUSED
    assert judge(Answer(status=201, passed=Passed(2, taken_by=7))) is Verdict.DELIVERED


def test_only_server_errors_and_timeouts_may_be_an_event_s_fault() -> None:
    may = {status for status in range(100, 1000) if charges(Answer(status=status))}
    assert may == set(range(500, 1000))
    assert charges(Answer(error="too late", timed_out=True))
    assert not charges(Answer(error="connection refused"))


def test_a_destination_that_says_it_is_overloaded_is_not_hurried() -> None:
    assert hurries(Answer(status=500))
    assert hurries(Answer(error="too late", timed_out=True))
    assert not hurries(Answer(status=503))
    assert not hurries(Answer(status=500, retry_after="5"))
    assert not hurries(Answer(status=429))
    assert not hurries(Answer(error="connection refused"))
    assert {status for status in range(100, 1000) if overloaded(Answer(status=status))} == {429, 503}


@pytest.mark.parametrize(
    ("charged", "since", "dead"),
    [
        (10, NOW - 600, True),
        (50, NOW - 601, True),
        (9, NOW - 6000, False),
        (50, NOW - 599, False),
        (0, None, False),
    ],
)
def test_a_budget_is_used_up_by_attempts_and_time_together(
    charged: int, since: float | None, dead: bool
) -> None:
    assert poisoned(charged, since, NOW, attempts=10, seconds=600.0) is dead


def test_an_event_that_fails_alone_gets_ever_more_time_up_to_the_cap() -> None:
    assert [suspect_deadline(5.0, charged) for charged in range(6)] == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert suspect_deadline(120.0, 3) == 120.0


def test_an_answer_reads_as_what_it_was() -> None:
    assert str(Answer(status=201)) == "HTTP 201"
    assert str(Answer(status=400, excerpt="no")) == "HTTP 400: no"
    assert str(Answer(error="connection refused")) == "connection refused"
    assert str(Answer(accepted=True)) == "accepted"


def test_pauses_double_up_to_their_cap_with_full_jitter_above_a_floor() -> None:
    def bounds(failures: int) -> tuple[float, float]:
        draws = [
            pause(failures, first=0.5, longest=30.0, asked=None, asked_longest=300.0, chance=x)
            for x in (0.0, 1.0)
        ]
        return draws[0], draws[1]

    assert bounds(1) == (0.05, 0.5)
    assert bounds(2) == (0.1, 1.0)
    assert bounds(6) == (1.6, 16.0)
    assert bounds(7) == (3.0, 30.0)
    assert bounds(10_000) == (3.0, 30.0)


@pytest.mark.parametrize(
    ("asked", "waited"),
    [(None, 0.25), (0.0, 0.25), (2.0, 2.0), (300.0, 300.0), (1e9, 300.0), (float("inf"), 300.0)],
)
def test_what_a_destination_asks_for_is_honoured_up_to_a_cap(asked: float | None, waited: float) -> None:
    assert pause(1, first=0.5, longest=30.0, asked=asked, asked_longest=300.0, chance=0.5) == waited


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3600", 3600.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("9" * 400, float("inf")),
        ("-1", None),
        ("1.5", None),
        ("1e9", None),
        ("", None),
        ("soon", None),
        ("٣", None),  # a digit, and not one of HTTP's
        ("Wed, 99 Foo 2026 99:99:99 GMT", None),
        ("\0\x80", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_else_nothing(text: str, seconds: float | None) -> None:
    assert retry_after_seconds(text, NOW) == seconds


@pytest.mark.parametrize("minutes", [1, 60, 60 * 24 * 400])
def test_retry_after_can_be_a_date(minutes: int) -> None:
    then = datetime.fromtimestamp(NOW, timezone.utc) + timedelta(minutes=minutes)
    assert retry_after_seconds(format_datetime(then, usegmt=True), NOW) == minutes * 60


def test_a_deadline_doubles_up_to_a_cap_or_what_was_configured() -> None:
    assert longer_deadline(5.0, 5.0) == 10.0
    assert longer_deadline(50.0, 5.0) == LONGEST_DEADLINE
    assert longer_deadline(LONGEST_DEADLINE, 5.0) == LONGEST_DEADLINE
    assert longer_deadline(100.0, 120.0) == 120.0


def test_once_back_a_destination_gets_the_time_that_its_answer_took_twice_over() -> None:
    assert deadline_after(0.01, 5.0) == 5.0
    assert deadline_after(8.0, 5.0) == 16.0
    assert deadline_after(50.0, 5.0) == LONGEST_DEADLINE
    assert deadline_after(50.0, 120.0) == 120.0


def test_chance_is_a_fraction() -> None:
    assert all(0.0 <= chance() <= 1.0 for _ in range(100))
