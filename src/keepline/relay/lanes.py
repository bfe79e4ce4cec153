"""All lanes of a relay, told together what each does by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

from keepline.destinations.connect import connect
from keepline.destinations.curl import CurlLoop
from keepline.destinations.ready import ReadyLeg
from keepline.outbox.commands import Command, Replay, Resume
from keepline.outbox.delivery import Ended
from keepline.outbox.ledger import Ledger
from keepline.relay.lane import Lane
from keepline.relay.policy import LaneState
from keepline.tuning import Tuning


class Lanes:
    """The lanes of all destinations.

    Args:
        ledger: open for writing.
        tuning: bounds.
        loop: of the relay.
        curl: of that loop.
        ended: called with each delivery that has ended.
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
        wake: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._tuning = tuning
        self._loop = loop
        self._curl = curl
        self._ended = ended
        self._wake = wake
        self._lanes: list[Lane] = []

    def open(self, legs: Sequence[ReadyLeg]) -> list[int]:
        """Open a lane for each leg. What was opened before one can't be is closed by :meth:`close`.

        Args:
            legs: accepted by the client.

        Returns:
            the ids of their destinations in the ledger.

        Raises:
            OutboxError: the ledger can't be written.
            Exception: the client's own, for a leg that it can't take.
        """
        ids = self._ledger.register([one.leg.name for one in legs], LaneState.OPEN.value)
        for one in legs:
            lane = Lane(
                one.leg.name,
                ids[one.leg.name],
                self._ledger,
                self._tuning,
                self._loop,
                connect=partial(connect, one, self._loop, self._curl, self._tuning.max_connections),
                ended=self._ended,
                wake=self._wake,
            )
            self._lanes.append(lane)
        return list(ids.values())

    @property
    def idle(self) -> bool:
        """Whether none knows of anything to do."""
        return all(lane.idle for lane in self._lanes)

    @property
    def busy(self) -> bool:
        """Whether a try is under way in any."""
        return any(lane.busy for lane in self._lanes)

    def more(self) -> None:
        """Tell that the ledger has new events."""
        for lane in self._lanes:
            lane.more()

    def apply(self, command: Command) -> None:
        """Take note of a command that the ledger has applied.

        Args:
            command: what was asked.
        """
        for lane in self._lanes:
            if isinstance(command, Replay) and command.destination == lane.name:
                lane.rewind()
            elif isinstance(command, Resume) and command.destination in (None, lane.name):
                lane.resume()

    def pump(self) -> None:
        """Begin what may begin.

        Raises:
            OutboxError: the ledger can't be read.
        """
        for lane in self._lanes:
            lane.pump()

    def hold(self, held: bool) -> None:
        """Begin nothing more while ``held``."""
        for lane in self._lanes:
            lane.hold(held)

    def describe(self) -> None:
        """Write down what is new about each, in the caller's transaction.

        Raises:
            OutboxError: the ledger can't be written.
        """
        for lane in self._lanes:
            lane.describe()

    def described(self) -> None:
        """Tell that the transaction was committed."""
        for lane in self._lanes:
            lane.described()

    def close(self, timeout: float) -> None:
        """Let go of all destinations within one bound, seconds."""
        deadline = time.monotonic() + timeout
        for lane in self._lanes:
            lane.close(timeout=0.0)
        # All have been told, so that they end side by side.
        for lane in self._lanes:
            lane.close(timeout=max(deadline - time.monotonic(), 0.0))
