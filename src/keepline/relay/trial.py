"""What a failed try leads to: the destination is out, or the event is to blame."""

from __future__ import annotations

import time
from collections.abc import Callable

from keepline.destinations.base import Answer
from keepline.outbox.delivery import Pending, Tried
from keepline.relay.ends import Ends, after_a_try
from keepline.relay.health import Health
from keepline.relay.pace import Pace
from keepline.relay.policy import LaneState, Verdict, charges, overloaded, poisoned
from keepline.relay.suspects import Suspects
from keepline.relay.window import Window
from keepline.tuning import Tuning


class Flight:
    """A try under way: of what, begun in which epoch, and when on the loop's clock."""

    __slots__ = ("accused", "began", "epoch", "one", "suspect")

    def __init__(self, one: Pending, epoch: int, began: float) -> None:
        self.one = one
        self.epoch = epoch
        self.began = began
        self.suspect = False
        """Whether it is one of the suspects that have their share of the tries."""
        self.accused = False
        """Whether it is a probe with an event that has failed in this outage, since no other waits."""


class Trial:
    """Finds out who is to blame for failed tries of one lane.

    When a try fails, the destination counts as out, and the next event that is sent, one of another run if
    one waits, tells whether it is. Comes that one through, then the destination is open as before, and the
    event that had failed is charged: it is a suspect now, with a pause of its own, and charged again each
    time it fails where others came through. Once it has used up its budget it is a dead letter. While nothing
    comes through, nobody is charged.

    Args:
        ident: the destination's, in the ledger.
        tuning: bounds.
        window: has given what is tried.
        health: of the destination.
        pace: of the lane.
        suspects: of the lane.
        ends: of the lane.
        tried: called with each try that failed.
    """

    def __init__(
        self,
        ident: int,
        tuning: Tuning,
        window: Window,
        health: Health,
        pace: Pace,
        suspects: Suspects,
        ends: Ends,
        *,
        tried: Callable[[Tried], None],
    ) -> None:
        self._ident = ident
        self._tuning = tuning
        self._window = window
        self._health = health
        self._pace = pace
        self._suspects = suspects
        self._tried = tried
        self._ends = ends
        self.successes = 0
        """How many events came through."""
        # What has failed since the destination went out, as long as it alone may be to blame.
        self._accused: list[tuple[Pending, Answer]] = []

    def next(self) -> Pending | None:
        """An event to probe with where no other waits: one that has failed in this outage."""
        return self._accused.pop(0)[0] if self._accused else None

    def failed(self, flight: Flight, verdict: Verdict, answer: Answer) -> None:
        """Take note of a try that didn't end its delivery.

        Args:
            flight: the try.
            verdict: OUT, MISCONFIGURED or LATER.
            answer: the try's.
        """
        one = after_a_try(flight.one, answer)
        health = self._health
        if verdict is Verdict.LATER:
            self._suspect(one, answer, charge=answer.passed is not None and answer.passed.blamed, grows=True)
            return
        current = flight.epoch == health.epoch
        may_charge = charges(answer)
        if may_charge and self._others_came_through(one, current):
            self._suspect(one, answer, charge=True)
        elif not current:
            # What was sent before the destination went out, or came back, says nothing of it.
            if one.event in self._suspects:
                self._suspect(one, answer)
            else:
                self._tell(one, answer)
                self._window.put_back(one)
        else:
            if overloaded(answer):
                self._pace.congested()
            was_open = health.state is LaneState.OPEN
            health.fail(verdict, answer)
            if may_charge and (was_open or flight.accused or health.quick):
                self._tell(one, answer)
                self._accused.append((one, answer))
                return
            # It is out. Should an event be to blame all the same, that will show once others come through.
            self._acquit()
            if may_charge:
                self._suspect(one, answer)
            else:
                self._tell(one, answer)
                self._window.put_back(one)

    def _others_came_through(self, one: Pending, current: bool) -> bool:
        if one.charged or one.event in self._suspects:
            return self.successes > self._suspects.successes_before(one.event)
        # One of a first failure counts as well when it was sent before an outage that is over.
        return not current and self._health.state is LaneState.OPEN and self._health.delivered

    def _suspect(self, one: Pending, answer: Answer, *, charge: bool = False, grows: bool = False) -> None:
        """Have an event wait for itself, or make an end of it."""
        if charge:
            now = time.time()
            one = Pending(
                one.event,
                one.run_key,
                one.body,
                one.attempts,
                one.charged + 1,
                one.first_at,
                one.charged_at or now,
            )
            tuning = self._tuning
            attempts, seconds = tuning.poison_attempts, tuning.poison_after
            if poisoned(one.charged, one.charged_at, now, attempts=attempts, seconds=seconds):
                self._tell(one, answer)
                self._ends.poisoned(one, answer)
                return
        self._tell(one, answer)
        self._window.set_aside(one)
        self._suspects.hold(one, self.successes, grows=charge or grows)

    def over(self, took: float, *, charge: bool) -> None:
        """Open the destination after a probe that came through.

        Args:
            took: seconds until the probe's answer.
            charge: whether that clears the destination, and leaves those to blame that have failed.
        """
        if not self._health.opens_at_once:
            self._pace.restart()
        self._health.recover(took)
        self._acquit(charge=charge)

    def _acquit(self, *, charge: bool = False) -> None:
        accused, self._accused = self._accused, []
        for one, answer in accused:
            self._suspect(one, answer, charge=charge)

    def _tell(self, one: Pending, answer: Answer) -> None:
        self._tried(
            Tried(
                self._ident,
                one.event,
                one.attempts,
                one.charged,
                one.first_at,
                one.charged_at,
                answer.status,
                str(answer),
            )
        )
