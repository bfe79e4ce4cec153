"""How one destination is, as far as its answers tell: open, out or paused, and when to ask it again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from keepline.destinations.base import Answer
from keepline.outbox.ledger import Ledger
from keepline.relay.policy import (
    LaneState,
    Verdict,
    chance,
    charges,
    deadline_after,
    hurries,
    longer_deadline,
    overloaded,
    pause,
    retry_after_seconds,
)
from keepline.tuning import Tuning

log = logging.getLogger(__name__)

_QUICK = 3


class Health:
    """The state of one destination, and the pause before its next probe.

    Each change of the state begins a new epoch. An answer to a try of an earlier epoch decides about its
    event alone: one that was sent before the destination went out says nothing of whether it is back, and
    one that runs out of time after it has come back says nothing against it.

    Args:
        name: of the destination.
        ident: its id in the ledger.
        tuning: bounds.
        loop: for the pauses.
        timeout: seconds that a try may take, as configured.
        over: called when a pause is over.
    """

    def __init__(
        self,
        name: str,
        ident: int,
        tuning: Tuning,
        loop: asyncio.AbstractEventLoop,
        *,
        timeout: float,
        over: Callable[[], None],
    ) -> None:
        self.name = name
        self.ident = ident
        self.state = LaneState.OPEN
        self.epoch = 0
        self.deadline = timeout
        """Seconds that the next try may take; grows while tries run out of time."""
        self.failures = 0
        """How many tries have failed in a row."""
        self.quick = 0
        """How many probes may still go before the pause is over, each with an event of a run of its own."""
        self.delivered = False
        """Whether it has taken an event, its last probe included, since it last opened."""
        self.overloaded = False
        """Whether its last failure says that it has too much to do: what is under way ends before a probe."""
        self.last: Answer | None = None
        """Its last answer, until that is written down."""
        self._tuning = tuning
        self._loop = loop
        self._timeout = timeout
        self._over = over
        self._timer: asyncio.TimerHandle | None = None
        self.reason = ""
        """Its last failure in words, while it isn't open."""
        self._in_doubt = False
        self._told = False
        self._changed = False

    @property
    def waiting(self) -> bool:
        """Whether a pause is under way."""
        return self._timer is not None

    @property
    def opens_at_once(self) -> bool:
        """Whether it was out so shortly that it needn't be opened gradually."""
        return self.failures == 1 or (self.failures <= _QUICK and not self._told)

    def fail(self, verdict: Verdict, answer: Answer) -> None:
        """Take note of a failed try of this epoch; begins a pause.

        Args:
            verdict: OUT or MISCONFIGURED.
            answer: the try's.
        """
        self.overloaded = overloaded(answer)
        if answer.timed_out:
            self.deadline = longer_deadline(self.deadline, self._timeout)
        if self.state is LaneState.OPEN:
            # A single event may be to blame.
            self._in_doubt = self.delivered and charges(answer)
        if not hurries(answer):
            self.quick = 0
        elif self.state is LaneState.OPEN and self.delivered:
            self.quick = _QUICK
        self.failures += 1
        seconds = pause(
            self.failures,
            first=self._tuning.backoff_first,
            longest=self._tuning.backoff_max,
            asked=retry_after_seconds(answer.retry_after, time.time()),
            asked_longest=self._tuning.retry_after_max,
            chance=chance(),
        )
        self.close()
        self._timer = self._loop.call_later(seconds, self._on_timer)
        state = LaneState.PAUSED if verdict is Verdict.MISCONFIGURED else LaneState.OUT
        if not self._told or self.state is not state:
            self.reason = str(answer)
        if self.state is not state:
            self._become(state)
            self._told = False
        certain = not self._in_doubt or self.failures > (_QUICK if self.quick else 1)
        if certain and not self._told:
            self._tell(answer)

    def _tell(self, answer: Answer) -> None:
        self._told = True
        self._changed = True
        paused = self.state is LaneState.PAUSED
        log.warning(
            "destination `%s` is %s: %s; events wait in the outbox, %s",
            self.name,
            "misconfigured" if paused else "out",
            answer,
            "see to its key and address" if paused else "nothing is lost",
            extra={"destination": self.name},
        )

    def recover(self, took: float) -> None:
        """Take note of the probe that came through.

        Args:
            took: seconds until its answer.
        """
        if self._told:
            log.info("destination `%s` is back", self.name, extra={"destination": self.name})
            self._changed = True
        self._told = False
        self.reason = ""
        self.failures = self.quick = 0
        self.delivered = False
        self.deadline = deadline_after(took, self._timeout)
        self._become(LaneState.OPEN)

    def _become(self, state: LaneState) -> None:
        self.state = state
        self.epoch += 1

    def hurry(self) -> None:
        """Leave out the rest of a pause, for one of the quick probes."""
        self.quick -= 1
        self.close()

    def resume(self) -> None:
        """End a pause that is under way."""
        if self._timer is not None:
            self.close()
            self._over()

    def _on_timer(self) -> None:
        self._timer = None
        self._over()

    def describe(self, ledger: Ledger) -> None:
        """Write down its state and last answer, where they are new, in the caller's transaction.

        Args:
            ledger: open for writing.

        Raises:
            OutboxError: the ledger can't be written.
        """
        if self._changed:
            ledger.describe(self.ident, state=self.state.value, reason=self.reason)
        if self.last is not None:
            ledger.answered(self.ident, str(self.last), time.time())

    def described(self) -> None:
        """Tell that the transaction was committed."""
        self._changed = False
        self.last = None

    def close(self) -> None:
        """End the pause, without more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
