"""The manager: the thread that looks after a pool's workers, and the order of their stopping.

It has no part in a call that goes well: that is between who submits, the spool and a worker. It replaces
workers that die or take too long, and ends them all in the end. Other threads fork a worker or say when to
stop, and ring a bell that it hears; it takes no lock of theirs, so nothing that a signal handler
interrupted can hold it up.

It sleeps in poll(2), with a timeout while there are calls: then it looks when the oldest may be overdue,
and by that wakes once in a call's time however many there are. While there are none it sleeps without end,
and who submits the next call rings.
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
from typing import TYPE_CHECKING

from keepline.errors import PoolError
from keepline.pool.workers import Workers

if TYPE_CHECKING:
    from keepline.pool.settings import Settings
    from keepline.pool.spool import Spool

logger = logging.getLogger(__name__)

LONGEST_WAIT = 86400.0  # seconds; poll(2) takes at most 24 days

_CLOSE_LEAST = 0.5  # seconds that a worker has at least to close its resident
_STOP_MARGIN = 1.0  # seconds by which a stop may exceed its timeout: that, and some to kill and reap


class Phase(enum.Enum):
    """How far the pool has come. It only moves down this list."""

    SERVING = "workers take calls, until a stop is asked for"
    DRAINING = "workers take the calls that are left, and end when none is, until the time is over"
    ENDING = "no more calls may be taken: workers finish the one they have and close their residents"
    KILLING = "workers that still lived were killed, and are awaited"
    ENDED = "no worker is left"


class Manager:
    """The thread with its workers; it is started at the first call.

    Args:
        settings: the pool's.
        spool: the pool's.

    Raises:
        OSError: no file descriptor is to be had.
    """

    def __init__(self, settings: Settings, spool: Spool) -> None:
        self.ended = False
        self._name = settings.name
        self._phase = Phase.SERVING
        self._stop_at = math.inf
        self._phase_until = math.inf
        self._selector = selectors.PollSelector()  # it has no file descriptor that a forked child would share
        self.workers = Workers(settings, spool, self._selector)
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._runners: list[threading.Thread | None] = []  # the first one counts, None if it was never to run
        self._beginning = False

    def prepare(self, calls: int = 1) -> None:
        """Have a worker for calls about to be submitted. For the thread that submits.

        Args:
            calls: how many, beside those that wait.

        Raises:
            PoolError: no thread is to be had.
        """
        self._begin()
        if self.workers.provide(calls):
            self._ring()

    def tell(self) -> None:
        """Have it seen that a call was submitted. For the thread that did."""
        self.workers.ring()
        if not self.workers.watching:
            self._ring()

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

    def wait(self, timeout: float) -> None:
        """Wait until it has ended. If it can't be had, kill from here.

        Args:
            timeout: that of ask_to_stop(), seconds.
        """
        if self._beginning or threading.current_thread() in self._runners:
            return
        self._runners.append(None)
        thread = self._runners[0]
        if thread is None:  # the first submit() failed, or was interrupted by who waits here
            self._clear_up()
        else:
            thread.join(timeout + _STOP_MARGIN)
            if thread.is_alive():
                self.ended = True
                self.workers.kill()

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
                for key, _ in self._selector.select(self._patience()):
                    if key.data is None:
                        self._ear.recv(4096)
                        self.workers.notice()
                        self.workers.look(time.monotonic())
                    else:
                        self.workers.attend(key.data, key.fd)
        except Exception as error:
            logger.warning("the manager of pool %s failed: %s", self._name, type(error).__name__)
            logger.debug("it was", exc_info=True)
        finally:
            self._clear_up()

    def _advance(self, now: float) -> Phase:
        if self._phase in (Phase.SERVING, Phase.DRAINING) and now >= self.workers.deadline:
            self.workers.look(now)
        if self._phase is Phase.SERVING and self._stop_at < math.inf:
            self._phase = Phase.DRAINING
            self.workers.look(now)  # so that there is a worker for what is left
            self.workers.hang_up()
        if self._phase is Phase.DRAINING and (now >= self._stop_at or self.workers.drained):
            self._phase = Phase.ENDING
            self._phase_until = max(self._stop_at, now + _CLOSE_LEAST)
            self.workers.close_calls()
        if self._phase is Phase.ENDING and now >= self._phase_until:
            self._phase = Phase.KILLING
            self._phase_until = math.inf
            self.workers.kill()
        if self._phase in (Phase.ENDING, Phase.KILLING) and not self.workers:
            self._phase = Phase.ENDED
        return self._phase

    def _patience(self) -> float | None:
        until = self._phase_until
        if self._phase in (Phase.SERVING, Phase.DRAINING):
            until = min(self._stop_at, self.workers.deadline)
        return None if until == math.inf else min(max(until - time.monotonic(), 0.0), LONGEST_WAIT)

    def _clear_up(self) -> None:
        self.ended = True
        self.workers.close()
        self._ear.close()
