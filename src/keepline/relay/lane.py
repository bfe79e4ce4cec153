"""The relay's work for one destination: what goes next, what an answer leads to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from keepline.destinations.base import Answer, Destination, Done, Try
from keepline.outbox.delivery import Ended, Pending, Tried
from keepline.outbox.ledger import Ledger
from keepline.outbox.waiting import Waiting
from keepline.relay.ends import Ends
from keepline.relay.health import Health
from keepline.relay.pace import FEW, Pace
from keepline.relay.policy import LaneState, Verdict, judge, suspect_deadline
from keepline.relay.suspects import Suspects
from keepline.relay.trial import Flight, Trial
from keepline.relay.window import Window
from keepline.tuning import Tuning

# So many have to wait before more go at once than a few: a day without trouble needs no more connections.
_QUEUE = 128
_MOST_GONE = 64
_WINDOW_PER_SLOT = 16
_SMALLEST_WINDOW = 256


class Lane:
    """Delivers to one destination, each run's events in the order of appending, different runs side by side.

    It never writes by itself: the relay marks what has ended and what was tried, and has the lanes describe
    themselves, all in one transaction. Everything happens on the relay's thread.

    Args:
        ident: of its destination in the ledger.
        ledger: has what waits.
        tuning: bounds.
        loop: for the pauses.
        connect: makes the destination, given what takes its answers.
        health: makes its health, given its time-out and what to call when a pause is over.
        ended: called with each delivery that has ended; the relay marks them together.
        tried: called with each try that failed; the last of an event counts.
        wake: called when the lane wants to be pumped: after an answer, and when a pause is over.
        together: whether its destination is several that stand in for one another, and paces each by itself.
    """

    def __init__(
        self,
        ident: int,
        ledger: Ledger,
        tuning: Tuning,
        loop: asyncio.AbstractEventLoop,
        *,
        connect: Callable[[Done], Destination],
        health: Callable[[float, Callable[[], None]], Health],
        ended: Callable[[Ended], None],
        tried: Callable[[Tried], None],
        wake: Callable[[], None],
        together: bool = False,
    ) -> None:
        self._clock = loop.time
        self._wake = wake
        self._in_flight: dict[int, Flight] = {}
        self._held = False
        self._probing = False
        self._suspects = Suspects(tuning, loop, wake)
        self._suspects_in_flight = 0
        self._suspect_last = False
        self._destination = connect(self._on_answer)
        self.health = health(self._destination.timeout, wake)
        self._pace = Pace(self._destination.capacity)
        if together:
            self._pace.limit = self._destination.capacity
        size = max(_SMALLEST_WINDOW, _WINDOW_PER_SLOT * self._destination.capacity)
        self._window = Window(Waiting(ledger, ident), size=size)
        self._ends = Ends(ident, self.health.name, self._window, self._suspects, ended)
        self._trial = Trial(
            ident,
            tuning,
            self._window,
            self.health,
            self._pace,
            self._suspects,
            self._ends,
            tried=tried,
        )

    @property
    def idle(self) -> bool:
        """Whether it knows of nothing to do."""
        return self._window.empty

    @property
    def busy(self) -> bool:
        """Whether a try is under way."""
        return bool(self._in_flight)

    @property
    def hungry(self) -> bool:
        """Whether it could do with more events than it knows of."""
        return self._window.hungry

    def more(self, rows: Sequence[Pending]) -> None:
        """Tell the lane that the ledger has new events.

        Args:
            rows: all of them, as they wait, in the order of appending.
        """
        self._window.more(rows)

    def marked(self) -> None:
        """Tell the lane that all that has ended is marked."""
        self._window.marked()

    def rewind(self) -> None:
        """Tell the lane that events it has passed wait again."""
        self._window.rewind()
        self._suspects.rewind()

    def resume(self) -> None:
        """Try at once, where a pause is under way, of the destination or of an event."""
        self._suspects.release()
        self.health.resume()
        self._wake()

    def hold(self, held: bool) -> None:
        """Begin no further try while ``held``, for a relay that stops or can't mark."""
        self._held = held

    def pump(self) -> None:
        """Begin as many tries as may be under way; while the destination is out, one when its time comes.

        Raises:
            OutboxError: the ledger can't be read.
        """
        if self._held:
            return
        if self.health.state is not LaneState.OPEN:
            self._probe()
            return
        pace = self._pace
        limit = pace.limit
        in_flight = self._in_flight
        # Those who take long to fail don't keep out the others, nor those who come next; where only one goes
        # at once, they take turns.
        share = limit // 4 or (0 if self._suspect_last else 1)
        if self._suspects:
            self._begin_suspects(share, limit)
        while len(in_flight) < limit and (one := self._take()) is not None:
            self._begin(one)
        if self._suspects:
            self._begin_suspects(limit - share, limit)
            self._suspects.wait()
        pace.tight = len(in_flight) >= limit and (limit < FEW or self._window.ready >= _QUEUE)

    def _begin_suspects(self, share: int, limit: int) -> None:
        while self._suspects_in_flight < share and len(self._in_flight) < limit:
            if (one := self._take_suspect(early=False)) is None:
                return
            self._begin(one, suspect=True)

    def _take(self, *, far: bool = False) -> Pending | None:
        window = self._window
        gone = 0
        while (one := window.take(far=far)) is not None:
            if one.body is None:
                self._ends.gone(one)
                self._wake()
                gone += 1
                if gone == _MOST_GONE:
                    return None  # The others of the relay, and the marking, have their turn.
            elif self._suspects and one.event in self._suspects and self._suspects.hold_again(one.event):
                window.set_aside(one)
            else:
                return one
        if window.unread:
            self._wake()
        return None

    def _take_suspect(self, *, early: bool) -> Pending | None:
        while (suspect := self._suspects.next(early=early)) is not None:
            one = self._window.bring_back(suspect)
            self._suspects.begin(suspect)
            if one is None:
                self._suspects.forget(suspect.event)
            elif one.body is None:
                self._ends.gone(one)
                self._wake()
            else:
                return one
        return None

    def _begin(self, one: Pending, *, suspect: bool = False) -> Flight:
        flight = Flight(one, self.health.epoch, self._clock())
        deadline = self.health.deadline
        self._suspect_last = suspect
        if suspect:
            flight.suspect = True
            self._suspects_in_flight += 1
            deadline = suspect_deadline(deadline, one.charged)
        self._in_flight[one.event] = flight
        assert one.body is not None, "what has none is dead before it is tried"
        self._destination.start(Try(one.event, one.body, deadline))
        return flight

    def _probe(self) -> None:
        """Begin the one try that may be under way while the destination is out, if its time has come."""
        health = self.health
        if self._probing or len(self._in_flight) >= self._destination.capacity:
            return
        if health.overloaded and len(self._in_flight) > self._suspects_in_flight:
            return  # What is under way ends first; suspects may take long.
        if health.waiting and not health.quick:
            return
        accused = suspect = False
        # Far from the one that has failed: what fails for its own sake often comes in flocks.
        one = self._take(far=True)
        if one is None:
            if health.waiting or self._window.unread:
                return
            if (one := self._trial.next()) is not None:
                accused = True
            elif (one := self._take_suspect(early=True)) is None:
                return
            else:
                suspect = True
        if health.waiting:
            health.hurry()
        self._probing = True
        self._begin(one, suspect=suspect).accused = accused

    def close(self, timeout: float) -> None:
        """Let go of the destination within a bounded time, seconds; may be called again to wait longer."""
        self.health.close()
        self._suspects.close()
        self._destination.close(timeout)

    def _on_answer(self, event: int, answer: Answer) -> None:
        flight = self._in_flight.pop(event)
        health = self.health
        health.last = answer
        if flight.suspect:
            self._suspects_in_flight -= 1
        current = flight.epoch == health.epoch
        probe = current and health.state is not LaneState.OPEN
        if probe:
            self._probing = False
        verdict = judge(answer)
        if verdict is Verdict.DELIVERED:
            self._trial.successes += 1
            self._ends.delivered(flight.one, answer)
        elif verdict is Verdict.REFUSED:
            self._ends.refused(flight.one, answer)
        else:
            self._trial.failed(flight, verdict, answer)
            self._wake()
            return
        took = self._clock() - flight.began
        if probe:
            self._trial.over(took, charge=verdict is Verdict.DELIVERED and not flight.accused)
        if verdict is Verdict.DELIVERED and current:
            health.delivered = True
            if not probe and answer.passed is None:
                self._pace.succeeded(took)
        self._wake()
