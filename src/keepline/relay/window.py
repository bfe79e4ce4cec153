"""What of a lane's pending deliveries is in memory: a bounded stretch of the ledger, runs in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from keepline.outbox.delivery import Pending

_STEP = 64
_MOST_BYTES = 8 * 1024 * 1024


class Window:
    """Gives deliveries in the order of appending, one of each run at a time; the ledger has the rest.

    A delivery that was given is held until it has ended or is put back. What is held is bounded in number
    and in bytes, give or take one reading step.

    Args:
        read: reads what is pending behind an event's id, up to a number of rows, in the order of appending.
        size: most deliveries that are held.
    """

    def __init__(self, read: Callable[[int, int], list[Pending]], *, size: int) -> None:
        self._read = read
        self._size = size
        self._ready: deque[Pending] = deque()
        self._given: dict[int, Pending] = {}
        # The ids of all that is held.
        self._known: set[int] = set()
        # For each run with a delivery that is ready or given: what has to wait for that one.
        self._behind: dict[str, deque[Pending]] = {}
        self._bytes = 0
        self._read_up_to = 0
        self._more = True

    @property
    def empty(self) -> bool:
        """Whether nothing is held, and nothing is known to be in the ledger beyond."""
        return not (self._known or self._more)

    def more(self) -> None:
        """Tell that the ledger has new deliveries."""
        self._more = True

    def rewind(self) -> None:
        """Tell that deliveries wait again which were passed: the ledger is read again from its beginning."""
        self._ready.clear()
        self._behind = {one.run_key: deque() for one in self._given.values() if one.run_key}
        self._known = set(self._given)
        self._bytes = sum(len(one.body or b"") for one in self._given.values())
        self._read_up_to = 0
        self._more = True

    def take(self) -> Pending | None:
        """The next delivery that may go, or ``None`` when there is none.

        Raises:
            OutboxError: the ledger can't be read; nothing was taken.
        """
        if len(self._known) <= self._size // 2 and self._bytes <= _MOST_BYTES // 2:
            self._fill()
        if not self._ready:
            return None
        one = self._ready.popleft()
        self._given[one.event] = one
        return one

    def put_back(self, one: Pending, *, last: bool) -> None:
        """Give back a delivery that has to be tried again.

        Args:
            one: the delivery; its run goes on waiting for it.
            last: whether it goes behind all that may go, and not before.
        """
        del self._given[one.event]
        if last:
            self._ready.append(one)
        else:
            self._ready.appendleft(one)

    def end(self, one: Pending) -> None:
        """Let go of a delivery that has ended; the next of its run may go."""
        self._known.discard(one.event)
        self._given.pop(one.event, None)
        self._bytes -= len(one.body or b"")
        if not one.run_key:
            return
        behind = self._behind[one.run_key]
        if behind:
            # Before the runs that haven't begun: a run that has begun should come to its end.
            self._ready.appendleft(behind.popleft())
        else:
            del self._behind[one.run_key]

    def _fill(self) -> None:
        while self._more and len(self._known) < self._size and self._bytes < _MOST_BYTES:
            rows = self._read(self._read_up_to, min(_STEP, self._size - len(self._known)))
            self._more = bool(rows)
            for row in rows:
                self._admit(row)

    def _admit(self, row: Pending) -> None:
        self._read_up_to = row.event
        if row.event in self._known:
            return
        self._known.add(row.event)
        self._bytes += len(row.body or b"")
        if row.run_key in self._behind:
            self._behind[row.run_key].append(row)
            return
        # An event without a run key waits for nobody.
        if row.run_key:
            self._behind[row.run_key] = deque()
        self._ready.append(row)
