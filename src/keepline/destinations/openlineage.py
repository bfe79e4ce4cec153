"""Delivery through any other transport of openlineage-python, or a class of the user's own.

The transport is built once and driven in one thread of its lane, one event at a time. One that doesn't come
back in time is left alone with its thread, and another is built.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from keepline.config import Leg
from keepline.destinations.base import Answer, Done, Try
from keepline.destinations.blocking import blocking
from keepline.destinations.driver import Driver
from keepline.destinations.legs import parse

log = logging.getLogger(__name__)

_MOST_LEFT = 4
_LONGEST_EMIT = 60.0


class DrivenDestination:
    """Hands events to a transport that blocks, on a thread of its own.

    A thread can't be ended from outside. So one whose try has run out of time is left to itself, and what it
    comes to is dropped; should the event arrive after all, the destination gets it twice. The number of
    threads that are left so is bounded: beyond, tries fail at once until one of them has come back.

    Args:
        leg: as configured.
        loop: where answers are given.
        done: called on the loop with the event's id and the answer to each try.

    Raises:
        Exception: the client's own, for a leg that it can't take.
    """

    capacity = 1

    def __init__(self, leg: Leg, loop: asyncio.AbstractEventLoop, done: Done) -> None:
        # The transport's own bound holds for connecting and for reading each, and ends a try more tidily.
        own = getattr(parse(leg).config, "timeout", None)
        self.timeout = 2 * float(own) if own else _LONGEST_EMIT
        self._name = leg.name
        self._parsed = parse(blocking(leg))
        self._loop = loop
        self._done = done
        self._driver: Driver | None = None
        self._left: list[Driver] = []
        self._under_way: Try | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, one: Try) -> None:
        """Hand an event over."""
        self._under_way = one
        driver = self._driver or self._fresh()
        if isinstance(driver, str):
            self._loop.call_soon(self._on_answer, None, one, Answer(error=driver))
            return
        self._driver = driver
        self._timer = self._loop.call_later(one.deadline, self._on_deadline, driver, one)
        driver.start(one)

    def close(self, timeout: float) -> None:
        """Close the transport, unless it is busy for longer than the bound."""
        self._end_try()
        if self._driver is not None:
            self._driver.leave()
            self._driver.join(timeout)

    def _fresh(self) -> Driver | str:
        """A thread with a transport to be built, or why there can't be one."""
        self._left = [driver for driver in self._left if driver.is_alive()]
        if len(self._left) >= _MOST_LEFT:
            return (
                f"the transport hangs: {len(self._left)} of its threads haven't come back; "
                "no other is begun until one has, or the relay is restarted"
            )
        try:
            return Driver(self._parsed, self._from_driver)
        except RuntimeError as error:
            return f"no thread can be begun for the transport: {error}"

    def _from_driver(self, driver: Driver, one: Try, answer: Answer) -> bool:
        try:
            self._loop.call_soon_threadsafe(partial(self._on_answer, driver, one, answer))
        except RuntimeError:
            return False  # The loop has ended; nobody waits for the answer any more.
        return True

    def _on_answer(self, driver: Driver | None, one: Try, answer: Answer) -> None:
        if driver is not self._driver or one is not self._under_way:
            log.info("transport `%s` has come back late, to nobody: %s", self._name, answer)
            return
        self._end_try()
        self._done(one.event, answer)

    def _on_deadline(self, driver: Driver, one: Try) -> None:
        self._end_try()
        driver.leave()
        self._driver = None
        self._left.append(driver)
        text = (
            f"the transport hasn't come back in {one.deadline:g} s; whether it has sent the event isn't known"
        )
        self._done(one.event, Answer(error=text, timed_out=True))

    def _end_try(self) -> None:
        self._under_way = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
