"""The workers of a pool together: who gets the next call, when to start one more, what a death means.

Everything here runs in the manager's thread, but for the methods that say otherwise.
"""

from __future__ import annotations

import contextlib
import logging
import math
import pickle
import selectors
from typing import TYPE_CHECKING

from keepline.errors import PoolError, WorkerCrashed
from keepline.pool.process import State
from keepline.pool.starter import CannotReplace, Starter
from keepline.pool.worker import READY, UNFIT

if TYPE_CHECKING:
    from keepline.pool.call import Call, Calls
    from keepline.pool.process import WorkerProcess
    from keepline.pool.settings import Settings
    from keepline.pool.worker import Failure

logger = logging.getLogger(__name__)

_CLEAN = "exit code 0"


class Workers:
    """The worker processes of one pool.

    Args:
        settings: the pool's.
        calls: where calls come from.
        selector: has each worker's socket and sentinel, with the worker as data.
    """

    def __init__(self, settings: Settings, calls: Calls, selector: selectors.BaseSelector) -> None:
        self._settings = settings
        self._calls = calls
        self._selector = selector
        self._starter = Starter(settings)
        self._workers = self._starter.workers
        self._failures = 0  # of starts, in a row
        self._replaceable = True  # by a worker that the manager starts
        self._ending = False

    def __bool__(self) -> bool:
        return any(worker.state is not State.NEW for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        """Process ids of those that live, or are not known to be dead. For any thread."""
        return [worker.pid for worker in tuple(self._workers) if worker.pid]

    @property
    def deadline(self) -> float:
        """When expire() is due, by the monotonic clock; infinite if never."""
        return min((worker.deadline for worker in self._workers), default=math.inf)

    def provide(self) -> None:
        """Fork a worker for a call about to be put, if there is none for it. For the thread that submits.

        Raises:
            PoolError: no worker lives, and none can be forked.
        """
        living = sum(worker.state is not State.DOOMED for worker in tuple(self._workers))
        if (
            len(self._calls) < living  # each has at most one of them, so this call finds one that has none
            or len(self._workers) >= self._settings.workers
            or self._failures >= self._settings.attempts
            or not self._settings.forks
        ):
            return
        try:
            self._starter.fork()
        except (OSError, RuntimeError, AssertionError) as error:  # not what a signal handler may raise
            text = f"pool `{self._settings.name}` can't fork a worker: {type(error).__name__}: {error}"
            if not living:
                raise PoolError(f"{text}; try again later") from error
            logger.warning("%s; %d others go on", text, living)

    def notice(self) -> None:
        """Watch the workers that were forked meanwhile."""
        for worker in tuple(self._workers):
            if worker.state is State.NEW and worker.pid:
                worker.be_noticed()
                self._selector.register(worker.sock, worker.events, worker)
                self._selector.register(worker.sentinel, selectors.EVENT_READ, worker)
                if self._ending:
                    worker.kill()

    def hand_out(self) -> None:
        """Give calls to the workers that are idle, and start workers for the calls that are left."""
        for worker in self._workers:
            if worker.state is State.IDLE and (call := self._calls.next()):
                worker.give(call)
                self._selector.modify(worker.sock, worker.events, worker)
        if not self._calls.waiting:
            self._failures = 0
        while self._lacks_a_worker():
            self._start()

    def attend(self, worker: WorkerProcess, fd: int) -> None:
        """See to a worker whose socket or sentinel is ready.

        Args:
            worker: whose.
            fd: the one that is ready.
        """
        if worker not in self._workers:  # buried a moment ago
            return
        frames, connected = worker.receive()  # what it has answered counts, even if it has died since
        for kind, body in frames:
            self._hear(worker, kind, body)
        if fd == worker.sentinel:
            self._bury(worker)
        elif connected:
            worker.flush()
            self._selector.modify(worker.sock, worker.events, worker)
        else:
            self._selector.unregister(worker.sock)
            if not self._ending:  # it is dying already, or the resident closed the socket
                worker.kill()

    def expire(self, now: float) -> None:
        """Kill the workers that aren't ready in time.

        Args:
            now: of the monotonic clock, seconds.
        """
        for worker in self._workers:
            if now >= worker.deadline:
                worker.problem = f"it wasn't ready in {self._settings.start_timeout:g} s"
                worker.kill()

    def tell_to_end(self) -> None:
        """Let each finish its call, close its resident and end; from now on, who dies isn't replaced."""
        self._ending = True
        for worker in self._workers:
            worker.tell_to_end()

    def kill(self) -> None:
        """Kill all. For any thread."""
        for worker in tuple(self._workers):
            worker.kill()

    def close(self) -> None:
        """Kill and reap those that are left, at the manager's end or after it. For any thread."""
        for worker in tuple(self._workers):
            if worker.pid and self._starter.remove(worker):  # one that is being started is its starter's
                worker.kill()
                worker.reap()

    def let_go(self) -> None:
        """Close what a forked child has inherited; the owner keeps its own."""
        for worker in self._workers:
            worker.let_go()

    def _lacks_a_worker(self) -> bool:
        starting = sum(worker.state in (State.NEW, State.STARTING) for worker in self._workers)
        return (
            self._calls.waiting > starting
            and len(self._workers) < self._settings.workers
            # When starts fail while other workers live, the calls are left to those.
            and self._failures < self._settings.attempts
            and self._replaceable
        )

    def _start(self) -> None:
        try:
            self._starter.start()
        except CannotReplace as error:
            self._do_without_replacement(str(error))
        except Exception as error:
            self._count_failure(f"{type(error).__name__}: {error}")
        else:
            self.notice()

    def _hear(self, worker: WorkerProcess, kind: bytes, body: bytes) -> None:
        if kind == READY:
            worker.be_ready()
            self._failures = 0
        elif call := worker.take_call():
            self._calls.remove(call).answer(kind, body, worker.pid)
        else:
            failure: Failure = pickle.loads(body)  # noqa: S301 - our own worker pickled it
            worker.was_unfit = kind == UNFIT
            worker.problem = failure.title
            logger.debug("in pool worker %d:\n%s", worker.pid, failure.traceback)

    def _bury(self, worker: WorkerProcess) -> None:
        with contextlib.suppress(KeyError):  # it had closed its socket before
            self._selector.unregister(worker.sock)
        self._selector.unregister(worker.sentinel)
        self._starter.remove(worker)
        how = worker.reap()
        call = worker.take_call()
        if self._ending:
            if how != _CLEAN:
                self._warn(worker, how, "at the stop")
        elif worker.was_unfit:
            self._do_without_replacement(worker.problem)
        elif not worker.was_ready:
            self._count_failure(worker.problem or f"worker {worker.pid} ended by {how} before it was ready")
        else:
            self._failures = 0
            self._run_again(worker, how, call)

    def _run_again(self, worker: WorkerProcess, how: str, call: Call | None) -> None:
        if call is None:
            self._warn(worker, how, "it had no call")
            return
        call.deaths += 1
        if call.deaths < self._settings.attempts:
            self._warn(worker, how, f"{call.method}() is run again")
            self._calls.put_back(call)
            return
        self._warn(worker, how, f"{call.method}() is given up")
        name = self._settings.name
        text = f"{call.deaths} workers of pool `{name}` died under {call.method}(), the last by {how}"
        self._calls.remove(call).fail(WorkerCrashed(text))

    def _warn(self, worker: WorkerProcess, how: str, then: str) -> None:
        extra = {"pool": self._settings.name, "worker": worker.pid, "ended": how}
        logger.warning(
            "worker %d of pool %s ended by %s; %s", worker.pid, self._settings.name, how, then, extra=extra
        )

    def _do_without_replacement(self, problem: str) -> None:
        self._replaceable = False
        if self._failures:  # the next fork may fail as the last did, and it may never come
            self._count_failure(problem)
            return
        text = "pool %s can't replace a worker without a fork (%s); %d calls wait for the next submit()"
        logger.warning(text, self._settings.name, problem, self._calls.waiting)

    def _count_failure(self, problem: str) -> None:
        self._failures += 1
        logger.warning("pool %s can't start a worker: %s", self._settings.name, problem)
        if self._workers or (self._replaceable and self._failures < self._settings.attempts):
            return
        name, times = self._settings.name, self._failures
        self._failures = 0
        text = f"pool `{name}` can't start a worker, {times} times in a row: {problem}"
        for _ in range(self._calls.waiting):  # not those that come meanwhile
            if call := self._calls.next():
                self._calls.remove(call).fail(PoolError(text))
