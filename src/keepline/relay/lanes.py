"""All lanes of a relay, told together what each does by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

from keepline.destinations.base import Destination, Done
from keepline.destinations.connect import connect
from keepline.destinations.curl import CurlLoop
from keepline.destinations.ready import ReadyLeg
from keepline.outbox.commands import Command, Replay, Resume
from keepline.outbox.delivery import Ended, Pending, Tried
from keepline.outbox.ledger import Ledger
from keepline.outbox.waiting import gather
from keepline.relay.failover import Failover
from keepline.relay.health import Health
from keepline.relay.lane import Lane
from keepline.relay.policy import LaneState
from keepline.relay.turn import StandIn
from keepline.tuning import Tuning


class Lanes:
    """The lanes of all destinations: one each, or one for all that stand in for one another.

    Args:
        ledger: open for writing.
        tuning: bounds.
        loop: of the relay.
        curl: of that loop.
        ended: called with each delivery that has ended.
        tried: called with each try that failed.
        wake: called when a lane wants to be pumped.
    """

    def __init__(
        self,
        ledger: Ledger,
        tuning: Tuning,
        loop: asyncio.AbstractEventLoop,
        curl: CurlLoop,
        *,
        ended: Callable[[Ended], None],
        tried: Callable[[Tried], None],
        wake: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._tuning = tuning
        self._loop = loop
        self._curl = curl
        self._ended = ended
        self._tried = tried
        self._wake = wake
        self._lanes: list[Lane] = []
        self._failover: Failover | None = None
        self._to_gather = False
        self._healths: list[Health] = []

    def open(self, legs: Sequence[ReadyLeg], *, failover: bool = False) -> list[int]:
        """Open a lane for each leg. What was opened before one can't be is closed by :meth:`close`.

        Args:
            legs: accepted by the client.
            failover: whether they stand in for one another, the first before all others.

        Returns:
            the ids of the destinations, in the ledger, for which events are to wait.

        Raises:
            OutboxError: the ledger can't be written.
            Exception: the client's own, for a leg that it can't take.
        """
        ids = self._ledger.register([one.leg.name for one in legs], LaneState.OPEN.value)
        makers = self._makers(legs)
        if failover and len(legs) > 1:
            first = next(iter(ids.values()))
            untold = partial(self._untold, " or ".join(ids))
            self._open(first, partial(self._stand_in, ids, makers), untold, together=True)
            self._gather()
            return [first]
        for name, ident in ids.items():
            self._open(ident, makers[name], partial(self._health, name, ident))
        return list(ids.values())

    def _makers(self, legs: Sequence[ReadyLeg]) -> dict[str, Callable[[Done], Destination]]:
        # The bound is that of all connections; a destination that isn't native has its own ways.
        native = sum(one.endpoint is not None for one in legs)
        share = max(self._tuning.max_connections // max(native, 1), 1)
        return {one.leg.name: partial(connect, one, self._loop, self._curl, share) for one in legs}

    def _open(
        self,
        ident: int,
        connect: Callable[[Done], Destination],
        health: Callable[[float, Callable[[], None]], Health],
        *,
        together: bool = False,
    ) -> None:
        self._lanes.append(
            Lane(
                ident,
                self._ledger,
                self._tuning,
                self._loop,
                connect=connect,
                health=health,
                ended=self._ended,
                tried=self._tried,
                wake=self._wake,
                together=together,
            )
        )

    def _health(self, name: str, ident: int, timeout: float, over: Callable[[], None]) -> Health:
        health = Health(name, ident, self._tuning, self._loop, timeout=timeout, over=over)
        self._healths.append(health)
        return health

    def _untold(self, names: str, timeout: float, over: Callable[[], None]) -> Health:
        # That of several together, who are never out: their tries wait instead, and each tells of itself.
        return Health(names, 0, self._tuning, self._loop, timeout=timeout, over=over)

    def _stand_in(
        self, ids: dict[str, int], makers: dict[str, Callable[[Done], Destination]], done: Done
    ) -> Destination:
        legs = [
            StandIn(ids[name], maker, partial(self._health, name, ids[name]))
            for name, maker in makers.items()
        ]
        self._failover = Failover(legs, self._loop, done)
        return self._failover

    @property
    def idle(self) -> bool:
        """Whether none knows of anything to do."""
        return all(lane.idle for lane in self._lanes)

    @property
    def busy(self) -> bool:
        """Whether a try is under way in any."""
        if self._failover is not None:
            return self._failover.busy
        return any(lane.busy for lane in self._lanes)

    @property
    def fed(self) -> bool:
        """Whether one that delivers has enough to do, and none that delivers could do with more."""
        hungry = [lane.hungry for lane in self._lanes if lane.health.state is LaneState.OPEN]
        return bool(hungry) and not any(hungry)

    def more(self, rows: Sequence[Pending]) -> None:
        """Tell that the ledger has new events.

        Args:
            rows: all of them, as they wait, in the order of appending.
        """
        for lane in self._lanes:
            lane.more(rows)

    def rewind(self) -> None:
        """Have each look at all that waits again."""
        for lane in self._lanes:
            lane.rewind()

    def apply(self, command: Command) -> None:
        """Take note of a command that the ledger has applied.

        Args:
            command: what was asked.
        """
        if not isinstance(command, (Replay, Resume)):
            return
        named = [one for one in self._healths if command.destination in (None, one.name)]
        for health in named:
            if isinstance(command, Resume):
                health.resume()
        for lane in self._lanes:
            if not named or not (self._failover or lane.health in named):
                continue
            if isinstance(command, Resume):
                lane.resume()
            else:
                self._to_gather = self._failover is not None
                lane.rewind()
        if self._failover is not None and named:
            self._failover.forget()

    def pump(self) -> None:
        """Begin what may begin.

        Raises:
            OutboxError: the ledger can't be read or written.
        """
        if self._to_gather:
            self._gather()
        for lane in self._lanes:
            lane.pump()

    def _gather(self) -> None:
        # One lane delivers for all of them, and reads what waits for the first.
        first, *others = [one.ident for one in self._healths]
        gather(self._ledger, first, others)
        self._to_gather = False

    def hold(self, held: bool) -> None:
        """Begin nothing more while ``held``."""
        if self._failover is not None:
            self._failover.hold(held)
        for lane in self._lanes:
            lane.hold(held)

    def describe(self) -> None:
        """Write down what is new about each destination, in the caller's transaction.

        Raises:
            OutboxError: the ledger can't be written.
        """
        for health in self._healths:
            health.describe(self._ledger)

    def described(self) -> None:
        """Tell that the transaction was committed, in which all was marked that has ended."""
        for health in self._healths:
            health.described()
        for lane in self._lanes:
            lane.marked()

    def close(self, timeout: float) -> None:
        """Let go of all destinations within one bound, seconds."""
        deadline = time.monotonic() + timeout
        for lane in self._lanes:
            lane.close(timeout=0.0)
        # All have been told, so that they end side by side.
        for lane in self._lanes:
            lane.close(timeout=max(deadline - time.monotonic(), 0.0))
