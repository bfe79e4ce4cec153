"""Starting workers: in which thread, in which way, and never more than the pool may have.

A fork copies what all other threads are in the middle of. Forked during a commit, a worker takes SQLite's
locks for held, for ever; any library with a lock or a cache can do such harm. So this process is forked in
the thread that submits, and in no other: whoever submits isn't in the middle of something else. The manager,
which may have to replace a worker at any moment, gives the new one an interpreter of its own.

Workers are started by the thread that submits and by the manager. They share a list without a lock, because a
signal handler that interrupts a submit() may wait for the manager. Who starts a worker appends it first, and
goes on if it is among the first that the pool may have.
"""

from __future__ import annotations

import itertools
import pickle
from typing import TYPE_CHECKING

from keepline.pool.process import WorkerProcess
from keepline.pool.worker import Duty

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepline.pool.place import Place
    from keepline.pool.settings import Settings


_numbers = itertools.count(1)  # of workers; a spool knows them by their number


class CannotReplace(Exception):
    """The factory can't be sent to a fresh interpreter: only a fork has it."""


class Starter:
    """Starts the workers of one pool.

    Args:
        settings: the pool's.
        place: of its spool.
    """

    def __init__(self, settings: Settings, place: Place) -> None:
        self._settings = settings
        self._place = place
        # Also those that are being started: a forked child has to let go of them all.
        self.workers: list[WorkerProcess] = []

    def fork(self) -> None:
        """Fork a worker. For the thread that submits.

        Raises:
            Exception: OSError, or what else multiprocessing raises.
        """
        self._start(lambda worker: worker.start(self._settings.context_now, self._duty(worker)))

    def start(self) -> None:
        """Start a worker without a fork of this process. For the manager.

        Raises:
            CannotReplace: the factory can't be pickled, and needn't be, because workers are forked otherwise.
            Exception: OSError, or what else multiprocessing raises.
        """
        if not self._settings.forks:
            self.fork()  # which isn't one
            return
        try:
            pickle.dumps(self._settings.factory, pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise CannotReplace(f"{type(error).__name__}: {error}") from error
        self._start(lambda worker: worker.start_fresh(pickle.dumps(self._duty(worker))))

    def remove(self, worker: WorkerProcess) -> bool:
        """Take a worker off the list.

        Args:
            worker: which.

        Returns:
            whether it was there: of several threads that remove it, only one is told so.
        """
        try:
            self.workers.remove(worker)
        except ValueError:
            return False
        return True

    def _duty(self, worker: WorkerProcess) -> Duty:
        return Duty(self._settings.factory, self._place, worker.number)

    def _start(self, begin: Callable[[WorkerProcess], None]) -> None:
        name, number = f"{self._settings.name}-worker", next(_numbers)
        worker = WorkerProcess(name, number, self._settings.start_timeout)
        try:
            self.workers.append(worker)
            if self.workers.index(worker) < self._settings.workers:
                begin(worker)
        finally:
            if not worker.pid:  # there are enough, or it failed, maybe by an exception of a signal handler
                self.remove(worker)
                worker.break_off()
