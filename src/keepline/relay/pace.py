"""How many tries a lane has under way at once: as many as its destination bears. Pure.

Source: V. Jacobson, "Congestion Avoidance and Control", 1988 (slow start, additive increase, multiplicative
decrease); the latency that falls behind its own best as a sign of congestion is that of TCP Vegas, 1994.
"""

from __future__ import annotations

FEW = 4
"""Where a limit begins, and below which latency alone takes none: with so few at once, it isn't our doing."""
_WORSE = 2.0
_MUCH_WORSE_SECONDS = 0.1
_LATELY = 256
_SMOOTHING = 0.125


class Pace:
    """The limit of tries at once. It doubles each round until a first sign of congestion, then grows by one.

    A round is as many answers as the limit allows tries. The limit grows only while it is what keeps tries
    back; an answer that tells of congestion halves it, and so does latency once in a round, when it is both
    twice the smallest seen lately and 0.1 s above it.

    Args:
        capacity: most tries that the destination takes at once.
    """

    __slots__ = ("_answers", "_before", "_best", "_capacity", "_lately", "_slow", "_smooth", "limit", "tight")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.limit = min(FEW, capacity)
        """Most tries at once."""
        self.tight = False
        """Whether more would have been begun, had the limit been higher; set by whom it limits."""
        self._slow = True
        self._answers = 0
        self._smooth = -1.0
        # The smallest latency of this stretch of answers, and of the one before.
        self._best = self._before = float("inf")
        self._lately = 0

    def succeeded(self, took: float) -> None:
        """Take note of an answer that came through.

        Args:
            took: seconds from the beginning of the try.
        """
        if self._smooth < 0:
            self._smooth = took
        else:
            self._smooth += (took - self._smooth) * _SMOOTHING
        if took < self._best:
            self._best = took
        self._answers += 1
        if self._slow and self.tight and self.limit < self._capacity:
            # One more for each answer: twice as many after a round.
            self.limit += 1
            if self._answers * 2 >= self.limit:
                self._end_round()
        elif self._answers >= self.limit:
            if self.tight and not self._slow and self.limit < self._capacity:
                self.limit += 1
            self._end_round()

    def _end_round(self) -> None:
        self._lately += self._answers
        self._answers = 0
        best = min(self._best, self._before)
        if self._lately >= _LATELY:
            self._before, self._best, self._lately = self._best, float("inf"), 0
        if self.limit > FEW and self._smooth > max(best * _WORSE, best + _MUCH_WORSE_SECONDS):
            self._halve(FEW)

    def congested(self) -> None:
        """Take note of an answer that tells of congestion."""
        self._halve(1)

    def _halve(self, least: int) -> None:
        self._slow = False
        self._answers = 0
        self.limit = max(self.limit // 2, least)

    def restart(self) -> None:
        """Begin at one: the destination is back after an outage."""
        self.limit = 1
        self._slow = True
        self._answers = 0
        self._smooth = -1.0
