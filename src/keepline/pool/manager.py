"""The manager: the thread that runs a pool's workers, and the order of their stopping.

It alone gives calls to workers and settles futures. Other threads fork a worker, put a call into its queue or
say when to stop, and ring a bell that it hears; it takes no lock of theirs, so nothing that a signal handler
interrupted can hold it up. Between events it sleeps in poll(2), with a timeout only when there is a deadline.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import selectors
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from keepline.errors import PoolError
from keepline.pool.call import Calls
from keepline.pool.workers import Workers

if TYPE_CHECKING:
    from concurrent.futures import Future

    from keepline.pool.settings import Settings

logger = logging.getLogger(__name__)

LONGEST_WAIT = 86400.0  # seconds; poll(2) takes at most 24 days

_CLOSE_LEAST = 0.5  # seconds that a worker has at least to close its resident
_STOP_MARGIN = 1.0  # seconds by which a stop may exceed its timeout: that, and some to kill and reap


class Phase(enum.Enum):
    """How far the pool has come. It only moves down this list."""

    SERVING = "calls are handed out; once asked to stop, until none is left or the time is over"
    ENDING = "workers were told to end: they finish the call they have and close their residents"
    KILLING = "workers that still lived were killed, and are awaited"
    ENDED = "no worker is left"


class Manager:
    """The thread with its workers and calls; it is started at the first call.

    Args:
        settings: the pool's.

    Raises:
        OSError: no file descriptor is to be had.
    """

    def __init__(self, settings: Settings) -> None:
        self.ended = False  # then it takes no more calls
        self.calls = Calls()
        self._name = settings.name
        self._phase = Phase.SERVING
        self._stop_at = math.inf
        self._phase_until = math.inf
        self._given_up = 0
        self._selector = selectors.PollSelector()  # it has no file descriptor that a forked child would share
        self.workers = Workers(settings, self.calls, self._selector)
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._runners: list[threading.Thread | None] = []  # the first one counts, None if it was never to run
        self._beginning = False

    def take(self, method: str, body: bytes) -> Future[Any]:
        """Put a call behind all others, and fork a worker for it if there is none.

        Args:
            method: its method's name.
            body: pickled (method, args, kwargs).

        Raises:
            PoolError: no worker lives and none can be forked, or no thread is to be had.
        """
        if threading.current_thread() not in self._runners:  # but a future's callback
            self.workers.provide()
        self._begin()
        future = self.calls.put(method, body)
        self._ring()
        if self.ended:  # a signal handler stopped the pool in the middle of this
            self.workers.close()
            self._given_up += self.calls.give_up(self._name)
        return future

    def _begin(self) -> None:
        # A signal handler may come in the middle of this, to submit or stop. If it raises, a thread may have
        # been started or not: the next submit() starts another unless one runs, and only the first goes on.
        if self._beginning or self._runners:
            return
        self._beginning = True
        try:
            threading.Thread(target=self._run, name=f"{self._name}-manager", daemon=True).start()
        except RuntimeError as error:
            raise PoolError(
                f"pool `{self._name}` can't start its manager: {error}; try again later"
            ) from error
        finally:
            self._beginning = False

    def ask_to_stop(self, timeout: float) -> None:
        """Begin to stop; when asked twice, the earlier end counts.

        Args:
            timeout: how long to go on with the calls there are, seconds.
        """
        self._stop_at = min(self._stop_at, time.monotonic() + timeout)
        self._ring()

    def wait(self, timeout: float) -> int:
        """Wait until it has ended. If it can't, as when a callback blocks, kill and give up from here.

        In a callback of a future it can't wait for itself, and returns at once.

        Args:
            timeout: that of ask_to_stop(), seconds.

        Returns:
            how many calls were given up.
        """
        if self._beginning or threading.current_thread() in self._runners:
            return self._given_up
        self._runners.append(None)
        thread = self._runners[0]
        if thread is None:  # the first submit() failed, or was interrupted by who waits here
            self._clear_up()
        else:
            thread.join(timeout + _STOP_MARGIN)
            if thread.is_alive():
                self._end()
        return self._given_up

    def hang_up(self) -> None:
        """Close the bell, after the end; the caller sees to it that no other thread rings."""
        self._bell.close()

    def let_go(self) -> None:
        """Close what a forked child has inherited; the owner keeps its own."""
        self._bell.close()
        self._ear.close()
        self.workers.let_go()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # full, so rung already; or closed, so nobody is there
            self._bell.send(b"!")

    def _run(self) -> None:
        this = threading.current_thread()
        self._runners.append(this)
        if self._runners[0] is not this:
            return
        try:
            while self._advance(time.monotonic()) is not Phase.ENDED:
                if self._phase is Phase.SERVING:
                    self.workers.hand_out()
                for key, _ in self._selector.select(self._patience()):
                    if key.data is None:
                        self._ear.recv(4096)
                        self.workers.notice()
                    else:
                        self.workers.attend(key.data, key.fd)
        except Exception as error:
            logger.warning("the manager of pool %s failed: %s", self._name, type(error).__name__)
            logger.debug("it was", exc_info=True)
        finally:
            self._clear_up()

    def _advance(self, now: float) -> Phase:
        self.workers.expire(now)
        if self._phase is Phase.SERVING and (
            now >= self._stop_at or (self._stop_at < math.inf and not self.calls)
        ):
            self._phase = Phase.ENDING
            self._phase_until = max(self._stop_at, now + _CLOSE_LEAST)
            self.workers.tell_to_end()
        if self._phase is Phase.ENDING and now >= self._phase_until:
            self._phase = Phase.KILLING
            self._phase_until = math.inf
            self.workers.kill()
        if self._phase is not Phase.SERVING and not self.workers:
            self._phase = Phase.ENDED
        return self._phase

    def _patience(self) -> float | None:
        until = self._stop_at if self._phase is Phase.SERVING else self._phase_until
        until = min(until, self.workers.deadline)
        return None if until == math.inf else min(max(until - time.monotonic(), 0.0), LONGEST_WAIT)

    def _end(self) -> None:
        self.ended = True
        self.workers.kill()
        self._given_up += self.calls.give_up(self._name)

    def _clear_up(self) -> None:
        self._end()
        self.workers.close()
        self._ear.close()
