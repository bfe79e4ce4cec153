"""Events that fail where others come through: each has a pause of its own.

Its run waits for it; other runs flow.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass

from keepline.outbox.delivery import Pending
from keepline.relay.policy import chance, pause
from keepline.tuning import Tuning


@dataclass(slots=True)
class _Suspect:
    one: Pending
    due: float
    failures: int
    successes: int


class Suspects:
    """The suspects of one lane. It holds no bodies.

    Args:
        tuning: bounds.
        loop: for the pauses.
        over: called when the next pause is over.
    """

    def __init__(self, tuning: Tuning, loop: asyncio.AbstractEventLoop, over: Callable[[], None]) -> None:
        self._tuning = tuning
        self._loop = loop
        self._over = over
        self._known: dict[int, _Suspect] = {}
        # When each that waits is due; some of it may be out of date.
        self._due: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None

    def __contains__(self, event: int) -> bool:
        return event in self._known

    def __bool__(self) -> bool:
        return bool(self._known)

    def hold(self, one: Pending, successes: int, *, grows: bool) -> None:
        """Begin, or begin anew, the pause of a suspect.

        Args:
            one: the event, as it was tried last.
            successes: of the lane so far.
            grows: whether the pause is longer than the last one; not where an outage may be to blame.
        """
        known = self._known.get(one.event)
        failures = max((0 if known is None else known.failures) + grows, 1)
        seconds = pause(
            failures,
            first=self._tuning.backoff_first,
            longest=self._tuning.backoff_max,
            asked=None,
            asked_longest=0.0,
            chance=chance(),
        )
        # Without its body.
        kept = Pending(one.event, one.run_key, None, one.attempts, one.charged, one.first_at, one.charged_at)
        known = _Suspect(kept, self._loop.time() + seconds, failures, successes)
        self._known[one.event] = known
        heapq.heappush(self._due, (known.due, one.event))

    def hold_again(self, event: int) -> bool:
        """Go on with the pause of one that was met again; tells whether it goes on.

        Args:
            event: a suspect's.
        """
        known = self._known[event]
        if known.due <= self._loop.time():
            return False
        heapq.heappush(self._due, (known.due, event))
        return True

    def successes_before(self, event: int) -> int:
        """How many successes the lane had when an event failed last; 0 for one that never has."""
        known = self._known.get(event)
        return 0 if known is None else known.successes

    def next(self, *, early: bool = False) -> Pending | None:
        """The one that is due first; ``None`` where none is due.

        Args:
            early: whether it may be one whose pause isn't over.
        """
        while self._due:
            due, event = self._due[0]
            known = self._known.get(event)
            if known is not None and known.due == due:
                return known.one if early or due <= self._loop.time() else None
            heapq.heappop(self._due)
        return None

    def begin(self, one: Pending) -> None:
        """Take note that the one of :meth:`next` is tried."""
        heapq.heappop(self._due)

    def forget(self, event: int) -> None:
        """Let go of one that has ended."""
        self._known.pop(event, None)

    def rewind(self) -> None:
        """Forget who waits: each is met again, and held again."""
        self._due.clear()

    def release(self) -> None:
        """End all pauses."""
        now = self._loop.time()
        waiting = {event for _, event in self._due} & self._known.keys()
        for known in self._known.values():
            known.due = min(known.due, now)
        self._due = sorted((self._known[event].due, event) for event in waiting)

    def wait(self) -> None:
        """Have ``over`` called when the next pause is over; not for one that is over already."""
        due = self._due[0][0] if self._due else 0.0
        if self._timer is not None and self._timer.when() == due:
            return
        self.close()
        if due > self._loop.time():
            self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._over()

    def close(self) -> None:
        """Call nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
