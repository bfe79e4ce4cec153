"""What of one run has to wait for an earlier event of it."""

from __future__ import annotations

from collections import deque

from keepline.outbox.delivery import Pending


class Behind:
    """The next events of a run in memory, and between which two ids more of it are left in the ledger.

    All that is held comes before all that is left.
    """

    __slots__ = ("first", "held", "last")

    def __init__(self) -> None:
        self.held: deque[Pending] = deque()
        self.first = 0
        """The id of the first that is left; 0 where none is."""
        self.last = 0

    def leave(self, event: int) -> None:
        """Leave an event that comes behind all others."""
        self.first = self.first or event
        self.last = event

    def let_go(self) -> int:
        """Leave what is held, too; gives its bytes."""
        if not self.held:
            return 0
        self.first = self.held[0].event
        self.last = self.last or self.held[-1].event
        let_go = sum(len(one.body or b"") for one in self.held)
        self.held.clear()
        return let_go
