"""Calls: their order, and what becomes of each one's future."""

from __future__ import annotations

import collections
import heapq
import itertools
import logging
import pickle
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any

from keepline.errors import CallNotSent, PoolError, PoolStopped
from keepline.pool.worker import VALUE

if TYPE_CHECKING:
    from keepline.pool.worker import Failure

logger = logging.getLogger(__name__)


class Call:
    """One call of a method of the resident.

    Args:
        number: its place in the order of submitting.
        method: the method's name.
        body: pickled (method, args, kwargs).
    """

    __slots__ = ("body", "deaths", "future", "method", "number")

    def __init__(self, number: int, method: str, body: bytes) -> None:
        self.number = number
        self.method = method
        self.body = body
        self.future: Future[Any] = Future()
        self.deaths = 0  # of workers, while they had it

    def begin(self) -> bool:
        """Mark the call as running, if it isn't; False when it was cancelled."""
        return self.future.running() or self.future.set_running_or_notify_cancel()

    def answer(self, kind: bytes, body: bytes, pid: int) -> None:
        """Settle the future with what a worker sent.

        Args:
            kind: VALUE or ERROR.
            body: the pickled value, or the pickled Failure.
            pid: the worker's.
        """
        try:
            content = pickle.loads(body)  # noqa: S301 - our own worker pickled it
        except Exception as error:
            name = type(error).__name__
            self.fail(
                CallNotSent(f"the result of {self.method}() can't be unpickled ({name}); return plain data")
            )
        else:
            self._settle(*((content, None) if kind == VALUE else (None, self._raised(content, pid))))

    def fail(self, error: BaseException) -> None:
        """Settle the future with an error.

        Args:
            error: for who asks for the result.
        """
        self._settle(None, error)

    def _raised(self, failure: Failure, pid: int) -> BaseException:
        try:
            error: object = pickle.loads(failure.pickled)  # noqa: S301 - our own worker pickled it
        except Exception:
            error = None
        if not isinstance(error, BaseException):
            error = PoolError(f"{self.method}() raised {failure.kind}, which can't be pickled; see its cause")
        # A pickled exception has lost its traceback.
        error.__cause__ = PoolError(f"in pool worker {pid}:\n{failure.traceback}")
        return error

    def _settle(self, value: object, error: BaseException | None) -> None:
        try:
            if error is None:
                self.future.set_result(value)
            else:
                self.future.set_exception(error)
        except InvalidStateError:  # a stop gave it up just now
            logger.debug("%s() was settled twice", self.method)
        except BaseException as raised:  # even a callback's SystemExit must not end the manager
            logger.warning("a callback of %s() raised %s", self.method, type(raised).__name__)
            logger.debug("it was", exc_info=True)


class Calls:
    """The calls of a pool that aren't done: those that wait, in order, and those that workers have.

    put() is for any thread that has the pool's lock, pending and len() for any; the others are for the
    manager, and give_up() for who acts in its place.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._open: set[Call] = set()
        self._queue: collections.deque[Call] = collections.deque()
        self._again: list[
            tuple[int, Call]
        ] = []  # a heap of what dead workers had, older than all in the queue

    def __len__(self) -> int:
        return len(self._open)

    @property
    def pending(self) -> int:
        """How many aren't done, counted one by one: a cancelled call stays in the queue for a while."""
        return sum(not call.future.done() for call in tuple(self._open))

    @property
    def waiting(self) -> int:
        """How many calls wait for a worker, some of them maybe cancelled."""
        return len(self._queue) + len(self._again)

    def put(self, method: str, body: bytes) -> Future[Any]:
        """Put a call behind all others.

        Args:
            method: its method's name.
            body: pickled (method, args, kwargs).
        """
        call = Call(next(self._numbers), method, body)
        self._open.add(call)
        self._queue.append(call)
        return call.future

    def put_back(self, call: Call) -> None:
        """Put a call whose worker died before all that were submitted after it.

        Args:
            call: not done.
        """
        heapq.heappush(self._again, (call.number, call))

    def next(self) -> Call | None:
        """Take the oldest call that waits; None if there is none."""
        while self.waiting:
            call = heapq.heappop(self._again)[1] if self._again else self._queue.popleft()
            if call.begin():
                return call
            self._open.discard(call)
        return None

    def remove(self, call: Call) -> Call:
        """Keep a call no more, and give it back, to be settled.

        Args:
            call: one that next() gave.
        """
        self._open.discard(call)
        return call

    def give_up(self, pool: str) -> int:
        """Fail all calls that aren't done.

        Args:
            pool: its name.

        Returns:
            how many.
        """
        given_up = [call for call in tuple(self._open) if call.begin()]
        self._queue.clear()
        self._open.clear()
        for call in sorted(given_up, key=lambda call: call.number):
            call.fail(PoolStopped(f"pool `{pool}` was stopped before {call.method}() was carried out"))
        return len(given_up)
