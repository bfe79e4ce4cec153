"""A delivery: one event to one destination, as the ledger gives it out and takes it back.

Tuples, since the relay makes some for each event, and they are made in a third of the time.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class DeliveryState(IntEnum):
    """Where a delivery stands."""

    PENDING = 0
    """Not delivered yet; waits for its turn, or for its destination."""
    DELIVERED = 1
    """The destination acknowledged it."""
    DEAD = 2
    """Given up; kept with its reason, until somebody replays or discards it."""
    DISCARDED = 3
    """Was dead, or waited for a destination that is no more; somebody has let go of it on purpose."""


class Pending(NamedTuple):
    """One delivery that waits.

    Args:
        event: the event's id; rises in the order of appending.
        run_key: what orders it.
        body: the event's JSON; ``None`` when it can't be read any more, since its file is damaged or gone.
        attempts: how often it was tried.
        charged: how often it failed while others of its destination succeeded.
        first_at: s since 1970: when it was tried first.
        charged_at: s since 1970: when it was charged first.
    """

    event: int
    run_key: str
    body: bytes | None
    attempts: int = 0
    charged: int = 0
    first_at: float | None = None
    charged_at: float | None = None

    def __repr__(self) -> str:
        # Without the body, which may hold secrets.
        return f"Pending(event={self.event}, run_key={self.run_key!r}, attempts={self.attempts})"


class Tried(NamedTuple):
    """A try that failed, of a delivery that goes on waiting.

    Args:
        destination: the destination's id.
        event: the event's id.
        attempts: how often it was tried in all.
        charged: how often it failed while others of its destination succeeded.
        first_at: s since 1970: when it was tried first.
        charged_at: s since 1970: when it was charged first.
        status: HTTP status of the last answer; ``None`` when it had none.
        answer: the last answer, in words.
    """

    destination: int
    event: int
    attempts: int
    charged: int
    first_at: float | None
    charged_at: float | None
    status: int | None
    answer: str


class Ended(NamedTuple):
    """The end of one delivery.

    Args:
        destination: the id of the destination that it waited for.
        event: the event's id.
        state: DELIVERED or DEAD.
        attempts: how often it was tried in all.
        first_at: s since 1970: when it was tried first.
        status: HTTP status of the last answer; ``None`` when it had none.
        answer: the last answer, in words; empty where the status says it all.
        taken_by: the id of the destination that took it instead, where several stand in for one another.
    """

    destination: int
    event: int
    state: DeliveryState
    attempts: int
    first_at: float | None = None
    status: int | None = None
    answer: str = ""
    taken_by: int | None = None
