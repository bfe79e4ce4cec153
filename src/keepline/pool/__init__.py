"""A process pool whose workers each keep one resident for life; it knows nothing of Airflow or OpenLineage.

Why not ``concurrent.futures``: its pool is dead for ever once one worker dies, and its stop waits without a
bound. Here a dead worker is replaced, what it had is run again, and everything that waits has an end.

A call is pickled in the caller's thread and queued; the pool's one thread, the manager, hands calls to
workers, one at a time to each, so it is known what a dead worker had. A worker ends when its owner tells it
to, or dies.

Where workers are forked, that is done in submit(), in the caller's thread, and nowhere else (starter.py says
why). A worker that died with a call is replaced at once all the same, by one with an interpreter of its own.

The order of stopping, and why:

1. No more calls are taken, so there is an end to wait for.
2. The calls there are go on until the timeout: what was accepted should be carried out.
3. Workers are told to end, by the end of their stream: a worker finishes its call and closes its resident,
   which may have something to send off itself. Only now, because a worker that was told takes no more calls.
4. What still lives is killed. SIGKILL alone ends a process that hangs, ignores signals or is stopped.
5. The dead are reaped, so that no zombie is left and no pid of ours can become another's.
6. The calls that are left fail with PoolStopped, last, because until then one may still have been answered.

At its exit the interpreter does the same for a pool that nobody stopped, before multiprocessing joins.
"""

from __future__ import annotations

import os
import pickle
import threading
import weakref
from multiprocessing import util
from typing import TYPE_CHECKING, Any

from keepline.errors import CallNotSent, ConfigError, PoolError, PoolStopped
from keepline.pool.manager import LONGEST_WAIT, Manager
from keepline.pool.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from multiprocessing.context import BaseContext

__all__ = ["Pool"]

_EXIT_TIMEOUT = 2.0  # seconds for the calls of a pool that nobody stopped, at the interpreter's exit
_EXIT_PRIORITY = 100  # any number would do: finalizers with one run before multiprocessing joins


class Pool:
    """A pool of worker processes, each with one resident.

    Nothing is started before the first submit(). In a forked child the pool is a new one: the child's first
    submit() starts the child's own workers, and nothing there touches the parent's.

    The calls that wait live in the owner's memory: kill -9 of the owner loses them, though not those that
    workers have. A future's callbacks run in the manager's thread: one that blocks holds up the pool. A fork
    server serves its parent alone: with that context, the workers of a forked child are spawned.

    Args:
        factory: builds the resident, once in each worker; must be picklable unless workers are forked. Even
            then, a dead worker's call waits for the next submit() if the factory can't be had in a fresh
            interpreter, as a lambda or what ``__main__`` defines. If the resident has a ``close()``, it is
            called when the worker ends.
        workers: how many at most; each is started when there is a call for it.
        context: of multiprocessing, how to start workers; None for the default at that time.
        attempts: how many workers may die under a call, and how many starts may fail in a row, until it is
            given up.
        start_timeout: how long a worker may take until its resident is built, seconds; then it is killed and
            replaced.
        name: for log lines, threads and processes.

    Raises:
        ConfigError: workers or attempts is below 1.
    """

    def __init__(
        self,
        factory: Callable[[], object],
        *,
        workers: int = 1,
        context: BaseContext | None = None,
        attempts: int = 2,
        start_timeout: float = 60.0,
        name: str = "keepline",
    ) -> None:
        for setting, value in (("workers", workers), ("attempts", attempts)):
            if value < 1:
                raise ConfigError(f"pool.{setting}", value, "1 or more")
        self._settings = Settings(factory, workers, context, attempts, start_timeout, name)
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        # A signal handler may stop the pool while the same thread submits: the lock has to be reentrant.
        self._lock = threading.RLock()
        self._stopped = False
        self._manager: Manager | None = None
        self._at_exit: util.Finalize | None = None

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that live."""
        return [] if self._manager is None else self._manager.workers.pids

    @property
    def pending(self) -> int:
        """How many calls are not done yet; they are counted one by one."""
        return 0 if self._manager is None else self._manager.calls.pending

    def submit(self, method: str, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a worker call a method of its resident. Never waits for a worker, but may have to fork one.

        It forks none in a callback of a future: that is the manager's thread. A call is carried out once, or
        again when a worker died under it: it should bear that.

        Args:
            method: its name.
            *args: for it; picklable.
            **kwargs: for it; picklable.

        Returns:
            the future of its result. Besides what the method raises it may get CallNotSent (the result can't
            be pickled), WorkerCrashed, PoolStopped, and PoolError (no worker starts, or what the method
            raised can't be pickled).

        Raises:
            CallNotSent: the arguments can't be pickled.
            PoolStopped: stop() was called.
            PoolError: no worker lives and none can be forked, or the manager can't be started.
        """
        try:
            body = pickle.dumps((method, args, kwargs), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            name = type(error).__name__
            # Not from error: its text shows what was passed.
            raise CallNotSent(
                f"the arguments of {method}() can't be pickled ({name}); pass plain data"
            ) from None
        with self._lock:
            manager = self._running_manager()
            future = manager.take(method, body)
            if self._stopped:  # by a signal handler, in the middle of this
                manager.ask_to_stop(0)
            return future

    def stop(self, timeout: float) -> int:
        """Stop, in the order that the module describes; takes at most a second more than the timeout.

        May be called again, from any thread, in a signal handler. In a callback of a future it doesn't wait.

        Args:
            timeout: how long to go on with the calls there are, seconds, a day at most; what is left of it is
                for residents to close, half a second at least.

        Returns:
            how many calls were given up, in all.
        """
        timeout = min(max(timeout, 0.0), LONGEST_WAIT)
        with self._lock:
            self._stopped = True
            manager = self._manager
            if manager is None:
                return 0
            manager.ask_to_stop(timeout)
        given_up = manager.wait(timeout)
        with self._lock:  # so that no other thread rings meanwhile
            if manager.ended:
                manager.hang_up()
                if self._at_exit is not None:
                    self._at_exit.cancel()
        return given_up

    def _running_manager(self) -> Manager:
        if self._stopped:
            raise PoolStopped(f"pool `{self._settings.name}` is stopped and takes no calls; make a new one")
        if self._manager is not None and self._manager.ended:  # it has failed
            self._manager.hang_up()
            self._manager = None
        if self._manager is None:
            self._manager = self._make_manager()
        return self._manager

    def _make_manager(self) -> Manager:
        try:
            manager = Manager(self._settings)
        except OSError as error:
            raise PoolError(
                f"pool `{self._settings.name}` can't start its manager: {error}; try again later"
            ) from error
        if self._at_exit is None:
            # Not atexit: children of multiprocessing skip that, and it might run after multiprocessing's own.
            self._at_exit = util.Finalize(None, self.stop, args=(_EXIT_TIMEOUT,), exitpriority=_EXIT_PRIORITY)
        return manager

    def _begin_in_child(self) -> None:
        manager = self._manager
        self._begin()
        if manager is not None:
            manager.let_go()


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _begin_in_child() -> None:
    for pool in tuple(_pools):
        pool._begin_in_child()


# The child has no manager's thread and no right to the workers, and its copy of a lock may be held for ever.
os.register_at_fork(after_in_child=_begin_in_child)
