"""What of a lane's pending deliveries is in memory: a bounded stretch of the ledger, runs in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from keepline.outbox.delivery import Pending
from keepline.outbox.waiting import Waiting
from keepline.relay.behind import Behind

_STEP = 64
_STEPS = 4
_MOST_BYTES = 8 * 1024 * 1024
_MOST_BEHIND = 16
_MOST_ASIDE = 16_384


class Window:
    """Gives deliveries in the order of appending, one of each run at a time; the ledger has the rest.

    A delivery that was given stays the window's until it has ended, is put back or set aside; the later ones
    of its run wait for it. What is held is bounded in number and in bytes. Of a run that waits a few are
    held and the others passed over, so that it doesn't keep other runs out; they are read when it moves on.

    Args:
        waiting: reads what is pending.
        size: most deliveries that are held.
    """

    def __init__(self, waiting: Waiting, *, size: int) -> None:
        self._waiting = waiting
        self._size = size
        self._ready: deque[Pending] = deque()
        self._given: dict[int, Pending] = {}
        self._aside: set[int] = set()
        # What has ended, and still waits to the ledger's mind.
        self._unmarked: set[int] = set()
        # Each run with a delivery that is ready, given or set aside; and what has to wait for that one.
        self._runs: dict[str, Behind | None] = {}
        # Those of them of which nothing more is held for now.
        self._passed: set[str] = set()
        # Those of them of which nothing is held any more, and some are left in the ledger.
        self._dry: deque[str] = deque()
        self._held = 0
        self._bytes = 0
        self._read_up_to = 0
        # What was given or unmarked when the ledger was begun anew, and is met again there.
        self._again: set[int] = set()
        self._more = True

    @property
    def empty(self) -> bool:
        """Whether nothing is held or set aside, and nothing is known to be in the ledger beyond."""
        return not (self._held or self._aside or self._more or self._dry)

    @property
    def unread(self) -> bool:
        """Whether another :meth:`take` may give something, though the last gave nothing."""
        return self._more and not self._full and len(self._aside) < _MOST_ASIDE

    @property
    def _full(self) -> bool:
        return self._held >= self._size or self._bytes >= _MOST_BYTES

    @property
    def ready(self) -> int:
        """How many in memory may go now."""
        return len(self._ready)

    @property
    def hungry(self) -> bool:
        """Whether half of what may be held isn't."""
        return self._held <= self._size // 2 and self._bytes <= _MOST_BYTES // 2

    def more(self, rows: Sequence[Pending]) -> None:
        """Tell that the ledger has new deliveries.

        Where all before them are known, they are held as they are, and needn't be read again.

        Args:
            rows: all that are new, in the order of appending.
        """
        for row in rows:
            if self._more or self._full or len(self._aside) >= _MOST_ASIDE:
                self._more = True
                return
            self._admit(row)

    def marked(self) -> None:
        """Tell that the ledger knows of all that has ended."""
        self._unmarked.clear()

    def rewind(self) -> None:
        """Tell that deliveries wait again which were passed: the ledger is read again from its beginning.

        What is given stays so; what was set aside is given anew, in its turn.
        """
        self._ready.clear()
        self._aside.clear()
        self._passed.clear()
        self._dry.clear()
        self._runs = {one.run_key: None for one in self._given.values() if one.run_key}
        self._held = len(self._given)
        self._bytes = sum(len(one.body or b"") for one in self._given.values())
        self._again = self._given.keys() | self._unmarked
        self._read_up_to = 0
        self._more = True

    def take(self, *, far: bool = False) -> Pending | None:
        """The next delivery that may go, or ``None`` when there is none, or none yet: see :attr:`unread`.

        Args:
            far: whether to take the one that would come last, most likely of another kind than the next.

        Raises:
            OutboxError: the ledger can't be read; nothing was taken.
        """
        while self._dry:
            self._refill(self._dry[0])
            self._dry.popleft()
        if self._more and (not self._ready or self.hungry):
            self._fill()
        if not self._ready:
            return None
        one = self._ready.pop() if far else self._ready.popleft()
        self._given[one.event] = one
        return one

    def put_back(self, one: Pending) -> None:
        """Give back a delivery that has to be tried again, before all others that may go.

        Args:
            one: the delivery; its run goes on waiting for it.
        """
        del self._given[one.event]
        self._ready.appendleft(one)

    def set_aside(self, one: Pending) -> None:
        """Hold nothing of a delivery that was given, and of its run, until it is brought back.

        Args:
            one: the delivery; its run goes on waiting for it.
        """
        self._drop(one)
        self._aside.add(one.event)
        if one.run_key:
            behind = self._runs[one.run_key] = self._runs[one.run_key] or Behind()
            self._let_go(behind)
            self._passed.add(one.run_key)

    def bring_back(self, one: Pending) -> Pending | None:
        """Give a delivery that was set aside, as it is given now; ``None`` when it waits no more.

        Args:
            one: what was set aside; its body isn't looked at.

        Raises:
            OutboxError: the ledger can't be read; nothing was given.
        """
        found = self._waiting.of_run(one.run_key, one.event, one.event, 1, _MOST_BYTES)
        self._aside.discard(one.event)
        if not found:
            self._move_on(one.run_key)
            return None
        back = Pending(
            one.event, one.run_key, found[0].body, one.attempts, one.charged, one.first_at, one.charged_at
        )
        self._given[one.event] = back
        self._held += 1
        self._bytes += len(back.body or b"")
        return back

    def end(self, one: Pending) -> None:
        """Let go of a delivery that was given and has ended; the next of its run may go."""
        self._drop(one)
        self._unmarked.add(one.event)
        if one.run_key:
            self._move_on(one.run_key)

    def _drop(self, one: Pending) -> None:
        del self._given[one.event]
        self._held -= 1
        self._bytes -= len(one.body or b"")

    def _let_go(self, behind: Behind) -> None:
        self._held -= len(behind.held)
        self._bytes -= behind.let_go()

    def _move_on(self, run_key: str) -> None:
        behind = self._runs.get(run_key)
        if behind is None:
            self._runs.pop(run_key, None)
        elif behind.held:
            # Before the runs that haven't begun: a run that has begun should come to its end.
            self._ready.appendleft(behind.held.popleft())
            if not behind.first:
                self._passed.discard(run_key)
        elif behind.first:
            self._dry.append(run_key)
        else:
            del self._runs[run_key]
            self._passed.discard(run_key)

    def _refill(self, run_key: str) -> None:
        behind = self._runs[run_key]
        assert behind is not None, "only a run with something behind is left dry"
        while behind.first and not behind.held:
            room = max(_MOST_BYTES - self._bytes, 1)
            rows = self._waiting.of_run(run_key, behind.first, behind.last, _MOST_BEHIND, room)
            behind.first = rows[-1].event + 1 if rows else 0
            if behind.first > behind.last or not rows:
                behind.first = behind.last = 0
            for row in rows:
                if row.event not in self._again:
                    behind.held.append(row)
                    self._held += 1
                    self._bytes += len(row.body or b"")
        self._move_on(run_key)

    def _fill(self) -> None:
        for _ in range(_STEPS):
            if self._full and not self._ready:
                self._make_room()
            if self._full or not self._more or len(self._aside) >= _MOST_ASIDE:
                return
            limit = min(_STEP, self._size - self._held)
            room = _MOST_BYTES - self._bytes
            rows, self._more = self._waiting.beyond(self._read_up_to, limit, room, self._passed)
            for row in rows:
                self._admit(row)

    def _make_room(self) -> None:
        # Nothing is ready: all that isn't given waits for what is.
        for run_key, behind in self._runs.items():
            if behind is not None and behind.held:
                self._let_go(behind)
                self._passed.add(run_key)

    def _admit(self, row: Pending) -> None:
        self._read_up_to = row.event
        if row.event in self._again:
            return
        run_key = row.run_key
        # An event without a run key waits for nobody.
        if run_key and run_key in self._runs:
            behind = self._runs[run_key]
            if behind is None:
                behind = self._runs[run_key] = Behind()
            if run_key in self._passed:
                behind.leave(row.event)
                return
            behind.held.append(row)
            if len(behind.held) >= _MOST_BEHIND:
                self._passed.add(run_key)
        else:
            if run_key:
                self._runs[run_key] = None
            self._ready.append(row)
        self._held += 1
        self._bytes += len(row.body or b"")
