"""The relay's work for one destination: what goes next, what an answer leads to."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from keepline.destinations.base import Answer, Destination, Done, Try
from keepline.outbox.delivery import DeliveryState, Ended, Pending
from keepline.outbox.ledger import Ledger
from keepline.relay.policy import (
    LaneState,
    Verdict,
    chance,
    deadline_after,
    judge,
    longer_deadline,
    pause,
    retry_after_seconds,
)
from keepline.relay.trouble import Seldom
from keepline.relay.window import Window
from keepline.tuning import Tuning

log = logging.getLogger(__name__)

_WINDOW_PER_SLOT = 64
_SMALLEST_WINDOW = 256


@dataclass(frozen=True)
class _Flight:
    """A try under way: of what, begun in which epoch of the lane, and when on the loop's clock."""

    one: Pending
    epoch: int
    began: float


class Lane:
    """Delivers to one destination, each run's events in the order of appending, different runs side by side.

    It never writes by itself: the relay marks what has ended, and has the lanes describe themselves, all in
    one transaction. Everything happens on the relay's thread.

    Each change of the state begins a new epoch. An answer to a try of an earlier epoch decides about its
    event alone: one that was sent before the destination went out says nothing of whether it is back, and
    one that runs out of time after it has come back says nothing against it.

    Args:
        name: of the destination.
        ident: its id in the ledger.
        ledger: has what waits.
        tuning: bounds.
        loop: for the pauses of an outage.
        connect: makes the destination, given what takes its answers.
        ended: called with each delivery that has ended; the relay marks them together.
        wake: called when the lane wants to be pumped: after an answer, and when a pause is over.
    """

    def __init__(
        self,
        name: str,
        ident: int,
        ledger: Ledger,
        tuning: Tuning,
        loop: asyncio.AbstractEventLoop,
        *,
        connect: Callable[[Done], Destination],
        ended: Callable[[Ended], None],
        wake: Callable[[], None],
    ) -> None:
        self.name = name
        self.ident = ident
        self.state = LaneState.OPEN
        self._reason = ""
        self._changed = False
        self._last_answer = ""
        self._last_answer_at: float | None = None
        self._ledger = ledger
        self._tuning = tuning
        self._loop = loop
        self._ended = ended
        self._wake = wake
        self._epoch = 0
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        self._in_flight: dict[int, _Flight] = {}
        self._refusals = Seldom()
        self._held = False
        self._destination = connect(self._on_answer)
        self._deadline = self._destination.timeout
        size = max(_SMALLEST_WINDOW, _WINDOW_PER_SLOT * self._destination.capacity)
        self._window = Window(partial(ledger.pending, ident), size=size)

    @property
    def idle(self) -> bool:
        """Whether it knows of nothing to do."""
        return self._window.empty

    @property
    def busy(self) -> bool:
        """Whether a try is under way."""
        return bool(self._in_flight)

    def more(self) -> None:
        """Tell the lane that the ledger has new events."""
        self._window.more()

    def rewind(self) -> None:
        """Tell the lane that events it has passed wait again."""
        self._window.rewind()

    def resume(self) -> None:
        """Try at once, where a pause is under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._probe()

    def hold(self, held: bool) -> None:
        """Begin no further try while ``held``, for a relay that stops or can't mark."""
        self._held = held

    def pump(self) -> None:
        """Begin as many tries as may be under way; while the destination is out, one when its time comes.

        Raises:
            OutboxError: the ledger can't be read.
        """
        if self._held or self._timer is not None:
            return
        most = self._destination.capacity if self.state is LaneState.OPEN else 1
        while len(self._in_flight) < most and (one := self._window.take()) is not None:
            if one.body is None:
                self._end(one, Verdict.REFUSED, Answer(error="its record in the outbox is damaged or gone"))
                self._wake()
                continue
            self._in_flight[one.event] = _Flight(one, self._epoch, self._loop.time())
            self._destination.start(Try(one.event, one.body, self._deadline))

    def describe(self) -> None:
        """Write down its state and last answer, where they are new, in the caller's transaction.

        Raises:
            OutboxError: the ledger can't be written.
        """
        if self._changed:
            self._ledger.describe(self.ident, state=self.state.value, reason=self._reason)
        if self._last_answer_at is not None:
            self._ledger.answered(self.ident, self._last_answer, self._last_answer_at)

    def described(self) -> None:
        """Tell that the transaction was committed."""
        self._changed = False
        self._last_answer_at = None

    def _on_answer(self, event: int, answer: Answer) -> None:
        flight = self._in_flight.pop(event)
        first_at = flight.one.first_at or time.time()
        one = replace(flight.one, attempts=flight.one.attempts + 1, first_at=first_at)
        self._last_answer = str(answer)
        self._last_answer_at = time.time()
        verdict = judge(answer)
        current = flight.epoch == self._epoch
        if verdict in (Verdict.DELIVERED, Verdict.REFUSED):
            self._end(one, verdict, answer)
            if current and self.state is not LaneState.OPEN:
                self._recover(self._loop.time() - flight.began)
        else:
            # The next probe is another run's event: should this one alone be to blame, that will show.
            self._window.put_back(one, last=current and self.state is not LaneState.OPEN)
            if current:
                self._fail(verdict, answer)
        self._wake()

    def _end(self, one: Pending, verdict: Verdict, answer: Answer) -> None:
        self._window.end(one)
        state = DeliveryState.DELIVERED if verdict is Verdict.DELIVERED else DeliveryState.DEAD
        self._ended(
            Ended(self.ident, one.event, state, one.attempts, one.first_at, answer.status, str(answer))
        )
        if state is DeliveryState.DEAD and self._refusals.due():
            log.warning(
                "destination `%s` refused an event for good: %s; it is kept as a dead letter",
                self.name,
                answer,
                extra={"destination": self.name, "event": one.event},
            )

    def _fail(self, verdict: Verdict, answer: Answer) -> None:
        if answer.timed_out:
            self._deadline = longer_deadline(self._deadline, self._destination.timeout)
        self._failures += 1
        seconds = pause(
            self._failures,
            first=self._tuning.backoff_first,
            longest=self._tuning.backoff_max,
            asked=retry_after_seconds(answer.retry_after, time.time()),
            asked_longest=self._tuning.retry_after_max,
            chance=chance(),
        )
        self._timer = self._loop.call_later(seconds, self._probe)
        state = LaneState.PAUSED if verdict is Verdict.MISCONFIGURED else LaneState.OUT
        if self.state is state:
            return
        log.warning(
            "destination `%s` is %s: %s; events wait in the outbox, %s",
            self.name,
            "misconfigured" if state is LaneState.PAUSED else "out",
            answer,
            "see to its key and address" if state is LaneState.PAUSED else "nothing is lost",
            extra={"destination": self.name},
        )
        self._become(state, str(answer))

    def _recover(self, took: float) -> None:
        log.info("destination `%s` is back", self.name, extra={"destination": self.name})
        self._failures = 0
        self._deadline = deadline_after(took, self._destination.timeout)
        self._become(LaneState.OPEN, "")

    def _become(self, state: LaneState, reason: str) -> None:
        self.state = state
        self._reason = reason
        self._changed = True
        self._epoch += 1

    def _probe(self) -> None:
        self._timer = None
        self._wake()

    def close(self, timeout: float) -> None:
        """Let go of the destination within a bounded time, seconds; may be called again to wait longer."""
        if self._timer is not None:
            self._timer.cancel()
        self._destination.close(timeout)
