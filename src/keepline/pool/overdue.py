"""Which workers have had their time: who takes too long for a call, and who takes none though some wait.

A worker says when it took a call, by the monotonic clock, which is the same in all processes of a machine.
So it is enough to look when the oldest may be due, and who works in time costs nothing here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keepline.pool.position import Position
    from keepline.pool.process import WorkerProcess

_SOON = 0.01  # seconds: not more often does it look


class Overdue:
    """Tells who is overdue, and when to look again.

    Args:
        timeout: of one call, seconds.
    """

    def __init__(self, timeout: float) -> None:
        self.at = math.inf  # when to look again, by the monotonic clock; infinite while nothing is to do
        self._timeout = timeout
        self._place = (0, 0)  # of the next call, when somebody last took one
        self._moved_at = 0.0

    def look(
        self, position: Position, living: list[WorkerProcess], now: float, *, waiting: bool
    ) -> Iterator[tuple[WorkerProcess, str]]:
        """Yield the workers that are overdue, and what is wrong with each.

        Args:
            position: what is done of the spool.
            living: the workers that weren't killed.
            now: of the monotonic clock.
            waiting: whether there are calls that nobody has.
        """
        place = position.segment, position.offset
        if not waiting or self._place != place:
            self._place, self._moved_at = place, now
        self.at = self._moved_at + self._timeout if waiting else math.inf
        for worker in living:
            taken = position.of(worker.number)
            since = taken.since if taken else max(self._moved_at, worker.ready_at)
            if now >= since + self._timeout and (taken or waiting):
                did = "finished no call" if taken else "took no call"
                yield worker, f"it {did} in {self._timeout:g} s"
            elif taken:
                self.at = min(self.at, since + self._timeout)
        self.at = max(self.at, now + _SOON)
