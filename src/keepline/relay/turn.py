"""What a failover keeps: its destinations, and how far a try has come among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from keepline.destinations.base import Destination, Done, Try
from keepline.relay.health import Health
from keepline.relay.pace import Pace


class StandIn(NamedTuple):
    """What makes one of the destinations.

    Args:
        ident: its id in the ledger.
        connect: makes it, given what takes its answers.
        health: makes its health, given its time-out and what to call when a pause is over.
    """

    ident: int
    connect: Callable[[Done], Destination]
    health: Callable[[float, Callable[[], None]], Health]


class Leg:
    """One of the destinations, and what is under way there.

    Args:
        ident: its id in the ledger.
        destination: itself.
        health: its own.
    """

    def __init__(self, ident: int, destination: Destination, health: Health) -> None:
        self.ident = ident
        self.destination = destination
        self.health = health
        self.pace = Pace(destination.capacity)
        self.in_flight = 0
        self.probing = False
        self.successes = 0


@dataclass(eq=False, slots=True)
class Turn:
    """A try, on its way from one destination to the next.

    Args:
        one: the try.
        refused: what those have said that will never take it; by their ids.
        successes: how many successes each had when it failed on this event last.
        asked: what those have said that failed on it this time.
        tries: how many were asked this time.
        status: HTTP status of the last answer.
        blamed: whether one failed on it that had taken others since it failed on it last.
        excused: whether one failed in a way that says nothing of the event.
        epoch: of the destination that is asked now, when it was.
        began: when it was, on the loop's clock.
    """

    one: Try
    refused: dict[int, str] = field(default_factory=dict)
    successes: dict[int, int] = field(default_factory=dict)
    asked: dict[int, str] = field(default_factory=dict)
    tries: int = 0
    status: int | None = None
    blamed: bool = False
    excused: bool = False
    epoch: int = 0
    began: float = 0.0

    def begin(self, one: Try) -> None:
        """Go round once more, past those that have refused it.

        Args:
            one: the try.
        """
        self.one = one
        self.asked = {}
        self.tries = 0
        self.blamed = self.excused = False
