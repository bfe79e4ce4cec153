"""The workers of a pool together: when to start one more, when one has had its time, what a death means.

Everything here runs in the manager's thread, but for the methods that say otherwise.
"""

from __future__ import annotations

import contextlib
import logging
import math
import pickle
import selectors
import time
from typing import TYPE_CHECKING

from keepline.errors import OutboxError, OutboxLocked
from keepline.pool.aside import set_aside
from keepline.pool.overdue import Overdue
from keepline.pool.process import State
from keepline.pool.starter import CannotReplace, Starter
from keepline.pool.worker import OUT_OF_MEMORY, READY, UNFIT

if TYPE_CHECKING:
    from keepline.pool.position import Taken
    from keepline.pool.process import WorkerProcess
    from keepline.pool.settings import Settings
    from keepline.pool.spool import Spool
    from keepline.pool.worker import Failure

logger = logging.getLogger(__name__)

_CLEAN = "exit code 0"
_FIRST_PAUSE = 0.1  # seconds after a start that failed; doubled each time
_LONGEST_PAUSE = 60.0
_AGAIN_SECONDS = 1.0  # until the spool is read again, after no descriptor was to be had


class Workers:
    """The worker processes of one pool.

    Args:
        settings: the pool's.
        spool: where calls are.
        selector: has each worker's socket and sentinel, with the worker as data.
    """

    def __init__(self, settings: Settings, spool: Spool, selector: selectors.BaseSelector) -> None:
        self._settings = settings
        self._spool = spool
        self._selector = selector
        self._starter = Starter(settings, spool.place)
        self._workers = self._starter.workers
        self._overdue = Overdue(settings.call_timeout)
        self._failures = 0  # of starts, in a row
        self._start_at = 0.0  # not before, by the monotonic clock
        self._lacking = False  # a worker that couldn't be started
        self._replaceable = True  # by a worker that the manager starts
        self._hung_up = False
        self._ending = False
        self.watching = False  # whether look() will be called by itself

    def __bool__(self) -> bool:
        return any(worker.state is not State.NEW for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        """Process ids of those that live, or are not known to be dead. For any thread."""
        return [worker.pid for worker in tuple(self._workers) if worker.pid]

    @property
    def deadline(self) -> float:
        """When look() is due, by the monotonic clock; infinite if never."""
        # When starts fail while other workers live, the calls are left to those.
        start = self._start_at if self._lacking and not self._workers else math.inf
        return min([self._overdue.at, start, *(worker.deadline for worker in self._workers)])

    @property
    def drained(self) -> bool:
        """Whether all have ended, and none will be started here for what is left."""
        return not self._workers and not (self._lacking and self._replaceable)

    def ring(self) -> None:
        """Tell the workers that there is one more call. For the thread that submits."""
        for worker in tuple(self._workers):
            worker.ring()

    def provide(self, calls: int) -> bool:
        """Fork a worker for calls about to be submitted, if none is free. For the thread that submits.

        Args:
            calls: how many, beside those that wait.

        Returns:
            whether the manager should see to it.
        """
        if len(self._workers) >= self._settings.workers or time.monotonic() < self._start_at:
            return False
        try:
            if not self._lacks(calls):
                return False
            if self._settings.forks:
                self._starter.fork()
        except (OSError, RuntimeError, AssertionError) as error:  # not what a signal handler may raise
            text = "pool %s can't fork a worker: %s: %s"
            logger.warning(text, self._settings.name, type(error).__name__, error)
        return True

    def notice(self) -> None:
        """Watch the workers that were forked meanwhile."""
        for worker in tuple(self._workers):
            if worker.state is State.NEW and worker.pid:
                worker.be_noticed()
                self._selector.register(worker.sock, worker.events, worker)
                self._selector.register(worker.sentinel, selectors.EVENT_READ, worker)
                if self._ending:
                    worker.kill()
                elif self._hung_up:
                    worker.hang_up()

    def attend(self, worker: WorkerProcess, fd: int) -> None:
        """See to a worker whose socket or sentinel is ready.

        Args:
            worker: whose.
            fd: the one that is ready.
        """
        if worker not in self._workers:  # buried a moment ago
            return
        frames, connected = worker.receive()
        for kind, body in frames:
            self._hear(worker, kind, body)
        if fd == worker.sentinel:
            self._bury(worker)
        elif connected:
            worker.flush()
            self._selector.modify(worker.sock, worker.events, worker)
        else:
            self._selector.unregister(worker.sock)
            if not self._hung_up:  # it is dying already, or the resident closed the socket
                worker.kill()

    def look(self, now: float) -> None:
        """Kill the workers that took too long, start those that are lacking, and say when to look again.

        Args:
            now: of the monotonic clock, seconds.
        """
        for worker in self._workers:
            if now >= worker.deadline:
                worker.problem = f"it wasn't ready in {self._settings.start_timeout:g} s"
                worker.kill()
        self.watching = False  # first: who submits from now on rings
        try:
            self._look_at_calls(now)
        except OSError as error:
            logger.debug("pool %s can't read its spool, and tries again: %s", self._settings.name, error)
            self._overdue.at = now + _AGAIN_SECONDS
        self.watching = self._overdue.at < math.inf

    def _look_at_calls(self, now: float) -> None:
        position = self._spool.position()
        waiting = self._spool.waiting(1) > 0
        living = [worker for worker in self._workers if worker.state is not State.DOOMED]
        for worker, problem in self._overdue.look(position, living, now, waiting=waiting):
            worker.problem = problem
            worker.kill()
        while (lacking := self._lacks() and self._replaceable and not self._ending) and now >= self._start_at:
            self._start(now)
        self._lacking = lacking

    def hang_up(self) -> None:
        """Let each go on until no call is left, close its resident and end."""
        self._hung_up = True
        for worker in self._workers:
            worker.hang_up()
            if worker.state is not State.NEW:
                with contextlib.suppress(KeyError):  # its socket is closed already
                    self._selector.modify(worker.sock, worker.events, worker)

    def close_calls(self) -> None:
        """Let each end after the call that it has; from now on, who dies isn't replaced."""
        self._ending = True
        with contextlib.suppress(OutboxError, OSError):  # those who take more are killed soon
            self._spool.close_to_workers()

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
                with contextlib.suppress(Exception):
                    self._spool.release(worker.number)

    def let_go(self) -> None:
        """Close what a forked child has inherited; the owner keeps its own."""
        for worker in self._workers:
            worker.let_go()

    def _lacks(self, more: int = 0) -> bool:
        """Whether there should be one more worker, with some more calls than there are."""
        living = [worker for worker in tuple(self._workers) if worker.state is not State.DOOMED]
        if len(self._workers) >= self._settings.workers:
            return False
        if not living:
            return more + self._spool.waiting(1) > 0
        free = len(living) - sum(1 for one in self._spool.position().taken if one.worker)
        return more + self._spool.waiting(free + 1) > free

    def _start(self, now: float) -> None:
        try:
            self._starter.start()
        except CannotReplace as error:
            self._do_without_replacement(str(error))
        except Exception as error:
            self._count_failure(f"{type(error).__name__}: {error}", now)
        else:
            self.notice()

    def _hear(self, worker: WorkerProcess, kind: bytes, body: bytes) -> None:
        if kind == READY:
            worker.be_ready()
            self._failures = 0
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
        if how == f"exit code {OUT_OF_MEMORY}":
            worker.problem = "it had no memory left"
        taken = self._release(worker)
        self.ring()  # another may be free for what it had
        if self._ending:
            if how != _CLEAN:
                self._warn(worker, how, "at the stop")
        elif worker.was_unfit:
            self._do_without_replacement(worker.problem)
        elif not worker.was_ready:
            if not (self._hung_up and how == _CLEAN):
                problem = worker.problem or f"worker {worker.pid} ended by {how} before it was ready"
                self._count_failure(problem, time.monotonic())
        elif not (self._hung_up and how == _CLEAN):
            self._failures = 0
            self._run_again(worker, how, taken)
        if not self._ending:
            self.look(time.monotonic())

    def _release(self, worker: WorkerProcess) -> Taken | None:
        try:
            return self._spool.release(worker.number)
        except OutboxLocked:
            # Whoever has the lock was stopped at the wrong moment. Its death gives it free.
            self.kill()
            return self._spool.release(worker.number)

    def _run_again(self, worker: WorkerProcess, how: str, taken: Taken | None) -> None:
        call = self._spool.read(taken) if taken else None
        if taken is None or call is None:
            self._warn(worker, how, "it had no call")
        elif taken.deaths < self._settings.attempts:
            self._warn(worker, how, f"{call.method}() is run again")
        else:
            kept = set_aside(self._spool.place, call)
            self._spool.drop(taken)
            self._warn(worker, how, f"{call.method}() is {'set aside' if kept else 'given up'}")

    def _warn(self, worker: WorkerProcess, how: str, then: str) -> None:
        name, pid = self._settings.name, worker.pid
        why = f" ({worker.problem})" if worker.problem else ""
        extra = {"pool": name, "worker": pid, "ended": how}
        logger.warning("worker %d of pool %s ended by %s%s; %s", pid, name, how, why, then, extra=extra)

    def _do_without_replacement(self, problem: str) -> None:
        self._replaceable = False
        text = "pool %s can't replace a worker without a fork (%s); its calls wait for the next submit()"
        logger.warning(text, self._settings.name, problem)

    def _count_failure(self, problem: str, now: float) -> None:
        pause = min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE)
        self._failures += 1
        self._start_at = now + pause
        text = "pool %s can't start a worker: %s; its calls wait, another is tried in %g s"
        logger.warning(text, self._settings.name, problem, pause)
