"""How many tries at once: up to what a destination bears, and down again where it tells so."""

from __future__ import annotations

import pytest

from keepline.relay.pace import Pace

FAST = 0.002


def answers(pace: Pace, count: int, took: float = FAST, *, tight: bool = True) -> None:
    for _ in range(count):
        pace.tight = tight
        pace.succeeded(took)


def after_a_first_sign(limit: int, capacity: int = 64) -> Pace:
    """One that has seen congestion, at this limit."""
    pace = Pace(capacity)
    while pace.limit < limit * 2:
        answers(pace, 1)
    pace.congested()
    assert pace.limit == limit
    return pace


def test_it_begins_small_and_doubles_each_round() -> None:
    pace = Pace(64)
    limits = [pace.limit]
    while pace.limit < 64:
        answers(pace, pace.limit)
        limits.append(pace.limit)
    assert limits == [4, 8, 16, 32, 64]


def test_it_never_goes_beyond_what_the_destination_takes() -> None:
    pace = Pace(10)
    answers(pace, 1000)
    assert pace.limit == 10
    assert Pace(1).limit == 1


def test_after_the_first_sign_of_congestion_it_grows_by_one_each_round() -> None:
    pace = after_a_first_sign(16)
    for limit in range(16, 24):
        assert pace.limit == limit
        answers(pace, limit)


def test_it_grows_only_where_it_is_what_keeps_tries_back() -> None:
    pace = Pace(64)
    answers(pace, 1000, tight=False)
    assert pace.limit == 4


def test_each_sign_of_congestion_halves_it_down_to_one() -> None:
    pace = after_a_first_sign(16)
    limits = []
    for _ in range(6):
        pace.congested()
        limits.append(pace.limit)
    assert limits == [8, 4, 2, 1, 1, 1]


@pytest.mark.parametrize(("took", "shrinks"), [(0.05, False), (0.1, False), (0.2, True), (5.0, True)])
def test_latency_far_above_the_smallest_seen_lately_halves_it_down_to_where_it_began(
    took: float, shrinks: bool
) -> None:
    pace = Pace(64)
    answers(pace, 200, took=FAST)
    assert pace.limit == 64
    answers(pace, 240, took=took)
    assert (pace.limit < 64) is shrinks
    answers(pace, 100, took=took * 1.01, tight=False)
    assert pace.limit >= 4


def test_a_slow_destination_whose_latency_stays_as_it_is_gets_as_many_at_once() -> None:
    pace = Pace(64)
    answers(pace, 1000, took=3.0)
    assert pace.limit == 64


def test_a_latency_that_stays_high_is_the_new_measure_after_a_while() -> None:
    pace = Pace(64)
    answers(pace, 200)
    answers(pace, 300, took=0.4)
    assert pace.limit < 64
    answers(pace, 5000, took=0.4)
    assert pace.limit == 64


def test_after_an_outage_it_begins_at_one_and_doubles_again() -> None:
    pace = after_a_first_sign(16)
    pace.restart()
    limits = [pace.limit]
    while pace.limit < 64:
        answers(pace, pace.limit)
        limits.append(pace.limit)
    assert limits == [1, 2, 4, 8, 16, 32, 64]
