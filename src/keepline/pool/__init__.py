"""A process pool whose workers each keep one resident for life; it knows nothing of Airflow or OpenLineage.

Why not ``concurrent.futures``: its pool is dead for ever once one worker dies, it keeps what waits in
memory, and its stop waits without a bound. Here a call that was accepted is on disk, a worker that dies or
hangs is replaced and what it had run again, and everything that waits has an end.

A call is pickled in the caller's thread and written to the spool, from which the workers take it by
themselves, in the order of submitting. Nobody is told what came of it. The pool's one thread, the manager,
looks after the workers and has no part in a call that goes well.

Nothing in submit() waits for a worker or another process: it takes one lock, which is held for as long as
others submit; it writes to a file, and rings without blocking. What may take long is the fork of the first
worker, some ms or tens of them as the process is large.

Where workers are forked, that is done in submit(), in the caller's thread, and nowhere else (starter.py says
why). A worker that died with a call is replaced at once all the same, by one with an interpreter of its own.

The order of stopping, and why:

1. No more calls are taken, so there is an end to wait for.
2. Workers are told to end when no call is left: what was accepted should be carried out, until the timeout.
3. The spool is closed: a worker finishes its call and closes its resident, which may have something to send
   off itself. Only now, because then it takes no more calls.
4. What still lives is killed. SIGKILL alone ends a process that hangs, ignores signals or is stopped.
5. The dead are reaped, so that no zombie is left and no pid of ours can become another's.
6. What is left stays in the spool, which is given free for the next process to adopt. Last, because until
   then a call may still have been carried out.

At its exit the interpreter does the same for a pool that nobody stopped, before multiprocessing joins.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from multiprocessing import util
from typing import TYPE_CHECKING, Any

from keepline.errors import CallNotSent, CallRefused, ConfigError, PoolError, PoolStopped
from keepline.pool.adoption import adopt, something_left
from keepline.pool.manager import LONGEST_WAIT, Manager
from keepline.pool.settings import Bounds, Settings
from keepline.pool.spool import Spool
from keepline.pool.written import MOST_BYTES, arguments_of, pack

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext
    from pathlib import Path

__all__ = ["Bounds", "Pool"]

_EXIT_TIMEOUT = 2.0  # seconds for the calls of a pool that nobody stopped, at the interpreter's exit
_EXIT_PRIORITY = 100  # any number would do: finalizers with one run before multiprocessing joins


class Pool:
    """A pool of worker processes, each with one resident.

    Nothing is started or made before the first submit(). In a forked child the pool is a new one: the
    child's first submit() starts the child's own workers, with a spool of their own, and nothing there
    touches the parent's. A fork server serves its parent alone: with that context, the workers of a forked
    child are spawned.

    A call is carried out once; again when its worker died or was overdue, or when the owner was killed
    while the call was in hand: it should bear that. After its attempts it is set aside, in a file of its
    own.

    Args:
        factory: builds the resident, once in each worker; must be picklable unless workers are forked. Even
            then, a dead worker's call waits for the next submit() if the factory can't be had in a fresh
            interpreter, as a lambda or what ``__main__`` defines. If the resident has a ``close()``, it is
            called when the worker ends.
        workers: how many at most; each is started when there is a call for it.
        context: of multiprocessing, how to start workers; None for the default at that time.
        attempts: how many workers may die under a call until it is set aside.
        start_timeout: how long a worker may take until its resident is built, seconds; then it is killed and
            replaced.
        call_timeout: how long a worker may take for a call, and how long it may leave a call waiting while it
            has none, seconds; then it is killed and replaced.
        folder: gives the folder of all spools, which several processes may share; asked at the first
            submit(). Without one, calls are in memory alone and end with the pool.
        bounds: of the spool.
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
        call_timeout: float = 60.0,
        folder: Callable[[], Path] | None = None,
        bounds: Bounds | None = None,
        name: str = "keepline",
    ) -> None:
        for setting, value in (("workers", workers), ("attempts", attempts)):
            if value < 1:
                raise ConfigError(f"pool.{setting}", value, "1 or more")
        self._settings = Settings(factory, workers, context, attempts, start_timeout, call_timeout, name)
        self._bounds = bounds or Bounds()
        self._folder = folder
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        # A signal handler may stop the pool while the same thread submits: the lock has to be reentrant.
        self._lock = threading.RLock()
        self._stopped = False
        self._spool: Spool | None = None
        self._manager: Manager | None = None
        self._at_exit: util.Finalize | None = None
        self._left = 0

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that live."""
        return [] if self._manager is None else self._manager.workers.pids

    @property
    def pending(self) -> int:
        """How many calls are not done yet; they are counted one by one."""
        return self._left if self._spool is None else self._spool.left()

    @property
    def refused(self) -> int:
        """How many calls there was no room for."""
        return 0 if self._spool is None else self._spool.refused

    @property
    def spool(self) -> Path | None:
        """The folder of this pool's calls, if it has taken any."""
        return None if self._spool is None else self._spool.place.home

    def submit(self, method: str, /, *args: Any, **kwargs: Any) -> None:
        """Have a worker call a method of its resident. Never waits for a worker, but may have to fork one.

        When it returns, the call is on disk: nothing but the loss of the disk, or of the machine's memory
        before it was written there, keeps it from being carried out.

        Args:
            method: its name.
            *args: for it; picklable.
            **kwargs: for it; picklable.

        Raises:
            CallNotSent: the arguments can't be pickled, or are too large.
            CallRefused: there is no room for it, on disk or in memory.
            PoolStopped: stop() was called.
            PoolError: the manager can't be started.
        """
        try:
            arguments = arguments_of(args, kwargs)
        except Exception as error:
            name = type(error).__name__
            # Not from error: its text shows what was passed.
            raise CallNotSent(
                f"the arguments of {method}() can't be pickled ({name}); pass plain data"
            ) from None
        if len(arguments) > MOST_BYTES - 1024:
            raise CallNotSent(f"the arguments of {method}() are {len(arguments)} bytes; pass less")
        frame = pack(method, arguments, time.time())
        with self._lock:
            spool, manager = self._running()
            manager.prepare()
            spool.append(frame)
            manager.tell()
            if self._stopped:  # by a signal handler, in the middle of this
                manager.workers.close()
                self.stop(0)

    def adopt(self) -> int:
        """Take over what was left in the folder by processes that are dead, and what was set aside.

        Returns:
            how many calls, which a worker carries out now.

        Raises:
            PoolError: as submit().
            OSError: a spool can't be read.
        """
        with self._lock:
            if self._folder is None or not something_left(self._folder()):
                return 0
            spool, manager = self._running()
            try:
                return adopt(self._folder(), spool)
            finally:
                manager.prepare(0)
                manager.tell()

    def stop(self, timeout: float) -> int:
        """Stop, in the order that the module describes; takes at most a second more than the timeout.

        May be called again, from any thread, in a signal handler.

        Args:
            timeout: how long to go on with the calls there are, seconds, a day at most; what is left of it is
                for residents to close, half a second at least.

        Returns:
            how many calls are left in the spool.
        """
        timeout = min(max(timeout, 0.0), LONGEST_WAIT)
        with self._lock:
            self._stopped = True
            manager = self._manager
            if manager is not None:
                manager.ask_to_stop(timeout)
        if manager is not None:
            manager.wait(timeout)
        with self._lock:  # so that no other thread rings meanwhile
            if manager is not None and manager.ended:
                manager.hang_up()
                if self._at_exit is not None:
                    self._at_exit.cancel()
            spool, self._spool = self._spool, None
            if spool is not None:
                self._left = spool.end()
            return self._left

    def _running(self) -> tuple[Spool, Manager]:
        if self._stopped:
            raise PoolStopped(f"pool `{self._settings.name}` is stopped and takes no calls; make a new one")
        if self._spool is None:
            self._spool = self._make_spool()
        if self._manager is not None and self._manager.ended:  # it has failed
            self._manager.hang_up()
            self._manager = None
        if self._manager is None:
            self._manager = self._make_manager(self._spool)
        return self._spool, self._manager

    def _make_spool(self) -> Spool:
        try:
            return Spool(self._folder() if self._folder else None, self._bounds)
        except OSError as error:
            raise CallRefused(
                f"pool `{self._settings.name}` can't make a spool: {error}; free some space, or name "
                "another folder"
            ) from error

    def _make_manager(self, spool: Spool) -> Manager:
        try:
            manager = Manager(self._settings, spool)
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
