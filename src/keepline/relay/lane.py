"""The relay's work for one destination: what goes next, what an answer leads to."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from keepline.config import Tuning
from keepline.destinations.base import Answer, Destination, Try
from keepline.outbox.ledger import DeliveryState, Ended, Ledger, Pending
from keepline.relay.policy import (
    LaneState,
    Verdict,
    chance,
    judge,
    longer_deadline,
    pause,
    retry_after_seconds,
)

log = logging.getLogger(__name__)

_WINDOW_PER_SLOT = 64
_SMALLEST_WINDOW = 256


class Lane:
    """Delivers to one destination, each run's events in the order of appending, different runs side by side.

    It keeps a bounded window of what is pending in memory; the ledger has the rest. It writes nothing: the
    relay marks what has ended, and writes down ``state`` and ``reason`` when they ``changed``, and the last
    answer. Everything happens on the relay's thread.

    Args:
        name: of the destination.
        ident: its id in the ledger.
        ledger: read for what waits.
        tuning: bounds.
        ended: called with each delivery that has ended; the relay marks them together.
        wake: called when a pause is over and the lane wants to be pumped.
        loop: for the pauses of an outage.
    """

    def __init__(
        self,
        name: str,
        ident: int,
        ledger: Ledger,
        tuning: Tuning,
        ended: Callable[[Ended], None],
        wake: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.name = name
        self.ident = ident
        self.state = LaneState.OPEN
        self.reason = ""
        self.changed = False
        self.last_answer = ""
        self.last_answer_at: float | None = None
        self._ledger = ledger
        self._tuning = tuning
        self._ended = ended
        self._wake = wake
        self._loop = loop
        self._destination: Destination | None = None
        self._deadline = 0.0
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ready: deque[Pending] = deque()
        self._behind: dict[str, deque[Pending]] = {}
        self._in_flight: dict[int, Pending] = {}
        self._loaded_up_to = 0
        self._more = True
        self._held = False

    def attach(self, destination: Destination) -> None:
        """Give the lane its destination, before anything else."""
        self._destination = destination
        self._deadline = destination.timeout

    @property
    def idle(self) -> bool:
        """Whether it knows of nothing to do."""
        return not (self._more or self._ready or self._in_flight)

    @property
    def busy(self) -> bool:
        """Whether a try is under way."""
        return bool(self._in_flight)

    def more(self) -> None:
        """Tell the lane that the ledger has new events."""
        self._more = True

    def hold(self, held: bool) -> None:
        """Begin no further try while ``held``, for a relay that stops or can't mark."""
        self._held = held

    def pump(self) -> None:
        """Begin as many tries as may be under way.

        Raises:
            OutboxError: the ledger can't be read.
        """
        if self._held or self._destination is None:
            return
        self._refill()
        if self.state is LaneState.OPEN:
            while self._ready and len(self._in_flight) < self._destination.capacity:
                self._start(self._ready.popleft())
                if not self._ready:
                    self._refill()
        elif self._ready and not self._in_flight and self._timer is None:
            self._start(self._ready.popleft())

    def _refill(self) -> None:
        assert self._destination is not None
        window = max(_SMALLEST_WINDOW, _WINDOW_PER_SLOT * self._destination.capacity)
        held = len(self._ready) + len(self._in_flight) + sum(map(len, self._behind.values()))
        if not self._more or held > window // 2:
            return
        rows = self._ledger.pending(self.ident, self._loaded_up_to, window - held)
        self._more = len(rows) == window - held
        for row in rows:
            self._loaded_up_to = row.event
            # An event without a run key waits for nobody.
            if row.run_key and row.run_key in self._behind:
                self._behind[row.run_key].append(row)
                continue
            if row.run_key:
                self._behind[row.run_key] = deque()
            self._ready.append(row)

    def _start(self, one: Pending) -> None:
        assert self._destination is not None
        self._in_flight[one.event] = one
        self._destination.start(Try(one.event, one.body, self._deadline))

    def done(self, event: int, answer: Answer) -> None:
        """Take the answer to a try.

        Args:
            event: the event's id.
            answer: what the destination made of it.
        """
        one = self._in_flight.pop(event, None)
        if one is None:
            return
        one = Pending(one.event, one.run_key, one.attempts + 1, one.body)
        self.last_answer = str(answer)
        self.last_answer_at = time.time()
        verdict = judge(answer)
        if verdict is Verdict.DELIVERED:
            self._end(one, DeliveryState.DELIVERED, answer)
        elif verdict is Verdict.REFUSED:
            self._end(one, DeliveryState.DEAD, answer)
            log.warning(
                "destination `%s` refused an event for good: %s; it is kept as a dead letter",
                self.name,
                answer,
                extra={"destination": self.name, "event": event},
            )
        else:
            self._back(one, verdict, answer)

    def _end(self, one: Pending, state: DeliveryState, answer: Answer) -> None:
        self._ended(Ended(self.ident, one.event, state, one.attempts, str(answer)))
        if one.run_key:
            behind = self._behind[one.run_key]
            if behind:
                # Before the runs that haven't begun: a run that has begun should come to its end.
                self._ready.appendleft(behind.popleft())
            else:
                del self._behind[one.run_key]
        if self.state is not LaneState.OPEN:
            log.info("destination `%s` is back", self.name, extra={"destination": self.name})
            self._become(LaneState.OPEN, "")
            self._failures = 0

    def _back(self, one: Pending, verdict: Verdict, answer: Answer) -> None:
        self._ready.appendleft(one)
        state = LaneState.PAUSED if verdict is Verdict.MISCONFIGURED else LaneState.OUT
        assert self._destination is not None
        if answer.timed_out:
            self._deadline = longer_deadline(self._deadline, self._destination.timeout)
        if self._timer is not None and self.state is state:
            return  # One of several that were under way when the outage was noticed: one failure, not many.
        self._failures += 1
        tuning = self._tuning
        seconds = pause(
            self._failures,
            first=tuning.backoff_first,
            longest=tuning.backoff_max,
            asked=retry_after_seconds(answer.retry_after, time.time()),
            asked_longest=tuning.retry_after_max,
            chance=chance(),
        )
        self._wait(seconds)
        if self.state is not state:
            remedy = "see to its key and address" if state is LaneState.PAUSED else "nothing is lost"
            log.warning(
                "destination `%s` is %s: %s; events wait in the outbox, %s",
                self.name,
                "misconfigured" if state is LaneState.PAUSED else "out",
                answer,
                remedy,
                extra={"destination": self.name},
            )
            self._become(state, str(answer))

    def _wait(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._probe)

    def _probe(self) -> None:
        self._timer = None
        self._wake()

    def _become(self, state: LaneState, reason: str) -> None:
        self.state = state
        self.reason = reason
        self.changed = True
        if state is LaneState.OPEN and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self, timeout: float) -> None:
        """Let go of the destination within a bounded time, seconds."""
        if self._timer is not None:
            self._timer.cancel()
        if self._destination is not None:
            self._destination.close(timeout)
