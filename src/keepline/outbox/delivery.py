"""A delivery: one event to one destination, as the ledger gives it out and takes it back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class DeliveryState(IntEnum):
    """Where a delivery stands."""

    PENDING = 0
    """Not delivered yet; waits for its turn, or for its destination."""
    DELIVERED = 1
    """The destination acknowledged it."""
    DEAD = 2
    """Given up; kept with its reason."""


@dataclass(frozen=True)
class Pending:
    """One delivery that waits.

    Args:
        event: the event's id; rises in the order of appending.
        run_key: what orders it.
        attempts: how often it was tried.
        body: the event's JSON.
    """

    event: int
    run_key: str
    attempts: int
    body: bytes


@dataclass(frozen=True)
class Ended:
    """The end of one delivery.

    Args:
        destination: the destination's id.
        event: the event's id.
        state: DELIVERED or DEAD.
        attempts: how often it was tried in all.
        answer: the last answer, in words.
    """

    destination: int
    event: int
    state: DeliveryState
    attempts: int
    answer: str
