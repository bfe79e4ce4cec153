"""What an answer means, and how long to wait. Decides from what it is given and does no I/O.

An outage belongs to a destination, a refusal belongs to an event.
"""

from __future__ import annotations

import random
from email.utils import parsedate_to_datetime
from enum import Enum

from keepline.destinations.base import Answer

_MISCONFIGURED = frozenset({401, 403, 404, 405, 407})
_OUT = frozenset({408, 425, 429})


class Verdict(Enum):
    """What an answer means."""

    DELIVERED = "delivered"
    """The destination has it."""
    REFUSED = "refused"
    """This event is not to its taste; others may be. A dead letter."""
    MISCONFIGURED = "misconfigured"
    """Key or address are wrong: somebody has to act. Nothing is lost, and nothing is dead."""
    OUT = "out"
    """The destination is down or overloaded; the event is not to blame."""
    LATER = "later"
    """Of several destinations that stand in for one another, none takes this event now; others they may."""


class LaneState(Enum):
    """What a lane is doing."""

    OPEN = "open"
    """It delivers, as many at once as it may."""
    OUT = "out"
    """Its destination is out: one probe at a time, with growing pauses."""
    PAUSED = "paused"
    """Its destination is misconfigured: one probe at a time, with growing pauses, and a warning."""


def judge(answer: Answer) -> Verdict:
    """What an answer means.

    Args:
        answer: of one try.
    """
    status = answer.status
    if answer.passed is not None and answer.passed.later:
        return Verdict.LATER
    if status is None:
        if answer.accepted:
            return Verdict.DELIVERED
        return Verdict.REFUSED if answer.refused else Verdict.OUT
    if 200 <= status < 300:
        return Verdict.DELIVERED
    if 300 <= status < 400 or status in _MISCONFIGURED:
        return Verdict.MISCONFIGURED
    if status >= 500 or status in _OUT or status < 200:
        return Verdict.OUT
    return Verdict.REFUSED


def charges(answer: Answer) -> bool:
    """Whether an event may itself be to blame for an answer, should others come through.

    Args:
        answer: of a try that failed.
    """
    return answer.timed_out or (answer.status is not None and answer.status >= 500)


def hurries(answer: Answer) -> bool:
    """Whether it is worth to ask a destination that was well at once, with another event.

    Not when it says itself that it is overloaded.

    Args:
        answer: of a try that failed.
    """
    return charges(answer) and not overloaded(answer) and not answer.retry_after


def overloaded(answer: Answer) -> bool:
    """Whether a destination says that it has too much to do.

    Args:
        answer: of a try that failed.
    """
    return answer.status in (429, 503)


def poisoned(charged: int, since: float | None, now: float, *, attempts: int, seconds: float) -> bool:
    """Whether an event has used up its budget.

    Args:
        charged: how often it failed while others of its destination succeeded.
        since: when it was charged first, s since 1970.
        now: s since 1970.
        attempts: the budget's.
        seconds: the budget's.
    """
    return since is not None and charged >= attempts and now - since >= seconds


def pause(
    failures: int, *, first: float, longest: float, asked: float | None, asked_longest: float, chance: float
) -> float:
    """Seconds to wait before the next probe: exponential with full jitter, or what the destination asked for.

    Source of the jitter: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Args:
        failures: tries that failed in a row, at least 1.
        first: upper end of the first pause, seconds.
        longest: cap, seconds.
        asked: what Retry-After asked for, seconds; ``None`` when it asked for nothing.
        asked_longest: cap of what is asked for, seconds.
        chance: a random number from 0 to 1.
    """
    ceiling = min(longest, first * 2.0 ** min(failures - 1, 30))
    # A floor keeps a run of small random numbers from becoming a storm.
    drawn = max(ceiling * chance, ceiling / 10)
    if asked is None:
        return drawn
    return max(drawn, min(asked, asked_longest))


def retry_after_seconds(text: str, now: float) -> float | None:
    """What a Retry-After header asks for, in seconds; ``None`` when it makes no sense.

    Source: RFC 9110, section 10.2.3 (seconds, or an HTTP date).

    Args:
        text: the header's value.
        now: s since 1970.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        asked = parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(asked, 0.0)


LONGEST_DEADLINE = 60.0
"""Longest deadline that a lane comes to by itself, seconds."""


def longer_deadline(deadline: float, configured: float) -> float:
    """The deadline of the next try after one ran out of time, seconds.

    Upstream's time-out protects the task that waits. Nothing waits here, and an endpoint that is slower than
    it would otherwise get the same event again and again, for ever.

    Args:
        deadline: of the try that ran out of time.
        configured: the ``timeout`` setting of the destination.
    """
    return min(deadline * 2, max(configured, LONGEST_DEADLINE))


def suspect_deadline(deadline: float, charged: int) -> float:
    """The deadline of a try with an event that has failed where others came through, seconds.

    It may just take longer than they do.

    Args:
        deadline: of the others.
        charged: how often it has failed so.
    """
    return min(deadline * 2.0 ** min(charged, 10), max(deadline, LONGEST_DEADLINE))


def deadline_after(took: float, configured: float) -> float:
    """The deadline of tries once a destination that was out answers again, seconds.

    Twice what its answer took, so that a slow endpoint isn't cut off again; no less than was configured.

    Args:
        took: seconds until it answered.
        configured: the ``timeout`` setting of the destination.
    """
    return max(configured, min(took * 2, LONGEST_DEADLINE))


def chance() -> float:
    """A random number from 0 to 1, for :func:`pause`."""
    return random.random()  # noqa: S311 - spreads load, guards nothing
