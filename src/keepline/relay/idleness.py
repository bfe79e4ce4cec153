"""Having nothing to do: who waits for it, and what happens when it lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime


class Idleness:
    """Tells those who wait that the relay has nothing left to do, and calls back when that lasts.

    Args:
        loop: the relay's.
        ring: has the relay look into the journal, and then tell whether it is idle.
        lasts: seconds after which ``lasted`` is called.
        lasted: called on the loop; ``None`` for a relay that doesn't mind.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        ring: Callable[[], None],
        lasts: float,
        lasted: Callable[[], None] | None,
    ) -> None:
        self._loop = loop
        self._ring = ring
        self._lasts = lasts
        self._lasted = lasted
        self._timer: asyncio.TimerHandle | None = None
        self._asked: list[Future[bool]] = []
        self._waiters: list[Future[bool]] = []
        self._calls: list[Callable[[], None]] = []

    def wait(self, timeout: float) -> bool:
        """Wait, on another thread, until all that was appended before has ended.

        Args:
            timeout: longest wait, seconds; negative for no bound.

        Returns:
            whether it has; not when the relay ended first.
        """
        waiter: Future[bool] = Future()
        # Before the loop is asked, so that over() finds it however the two meet.
        self._asked.append(waiter)
        try:
            self._loop.call_soon_threadsafe(self._begin, waiter)
            return waiter.result(None if timeout < 0 else timeout)
        except (RuntimeError, NotInTime):
            return False

    def _begin(self, waiter: Future[bool]) -> None:
        # On the loop, together with the ring: whoever finds the relay idle after this has looked.
        self._waiters.append(waiter)
        self._ring()

    def once(self, call: Callable[[], None]) -> None:
        """Have something called, on the loop, when all that was appended before has ended."""
        self._calls.append(call)
        self._ring()

    def tell(self, idle: bool) -> None:
        """Take note of whether there is anything to do."""
        if idle:
            while self._calls:
                self._calls.pop()()
            while self._waiters:
                self._waiters.pop().set_result(True)
        if idle and self._timer is None and self._lasted is not None:
            self._timer = self._loop.call_later(self._lasts, self._on_timer, self._lasted)
        elif not idle and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self, lasted: Callable[[], None]) -> None:
        self._timer = None
        lasted()

    def over(self) -> None:
        """Let go of those who still wait: the relay has ended, and its loop is closed."""
        for waiter in self._asked:
            if not waiter.done():
                waiter.set_result(False)
