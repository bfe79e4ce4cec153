"""The listener that takes the place of the provider's: its event building, our pool, and guarded hooks."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import hookimpl
from airflow.providers.openlineage.plugins.listener import OpenLineageListener

from keepline.airflow import configuration, tasks
from keepline.airflow.flushing import flush_task
from keepline.airflow.guard import HookLog, guarded, tell
from keepline.airflow.resident import build_resident, named, portable
from keepline.errors import CallRefused, PoolError
from keepline.pool import Pool
from keepline.relay.launch import reap

if TYPE_CHECKING:
    import psutil

log = logging.getLogger(__name__)

_HOOK_MARK = "airflow_impl"
_POOL = "_keepline_pool"

_ACCEPTED: Future[Any] = Future()
_ACCEPTED.set_result(None)


class KeeplineListener(OpenLineageListener):
    """The provider's listener, with a pool that keeps one adapter in each worker.

    It is never constructed: :meth:`take_over` gives this class to the provider's own listener, which the
    provider's other modules hold.
    """

    @staticmethod
    def fits(provider: type[OpenLineageListener]) -> bool:
        """Whether a listener of the provider's has everything that is replaced here.

        Args:
            provider: its class.
        """
        return all(hasattr(provider, name) for name in ("executor", "submit_callable", "before_stopping"))

    @staticmethod
    def take_over(listener: OpenLineageListener) -> None:
        """Make a KeeplineListener of the provider's listener.

        Args:
            listener: the provider's, before anything was emitted with it.
        """
        listener.log = HookLog(listener.log)
        listener.__class__ = KeeplineListener
        listener.adapter.emit = tasks.in_turn(listener.adapter.emit)

    @property
    def executor(self) -> Pool:
        """The pool, made when it is first asked for; pluggy asks where it registers the listener."""
        pool: Pool | None = self.__dict__.get(_POOL)
        if pool is None:
            # Atomic, for an API server has many threads; a pool that comes second has started nothing.
            made = Pool(
                build_resident,
                workers=configuration.pool_size(),
                call_timeout=configuration.call_timeout(),
                folder=configuration.spool_folder,
                name="keepline-openlineage",
            )
            pool = self.__dict__.setdefault(_POOL, made)
        return pool

    def submit_callable(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: A002
        """Have a worker run what the provider submits, on the worker's own adapter.

        It is done when it is on disk: no one waits for more, and a worker logs what goes wrong there.

        Args:
            callable: a method of an adapter (up to provider 2.19), or a function of the provider's module.
            args: its arguments.
            kwargs: its keyword arguments.

        Returns:
            a future that is done. It has no result, or the error when the event wasn't accepted.
        """
        reap()  # what on_starting() has left, if it started a relay
        pool = self.executor
        try:
            pool.submit("run", named(callable), tuple(map(portable, args)), kwargs)
        except PoolError as error:
            # On a full disk there may be thousands: of the 1st, 2nd, 4th, 8th ... is told.
            if not isinstance(error, CallRefused) or not pool.refused & (pool.refused - 1):
                tell(log, "An OpenLineage event was not emitted", error)
            refused: Future[Any] = Future()
            refused.set_exception(error)
            return refused
        return _ACCEPTED

    @hookimpl
    def on_starting(self, component: object) -> None:
        """See to it that what an earlier scheduler has left is emitted, and delivered.

        Args:
            component: Airflow's job, which can't be told yet from others, or what stands for a task.
        """
        # What runs in a child of the scheduler, as tasks do with the LocalExecutor, has the scheduler's
        # arguments. Airflow's command line has no options before the name of the command.
        if sys.argv[1:2] == ["scheduler"] and multiprocessing.parent_process() is None:
            from keepline.airflow.starting import begin

            begin(self.executor, lambda: self.__dict__.get(_POOL))

    @hookimpl
    def before_stopping(self, component: object) -> None:
        """Stop the pool within a bounded time; a later event makes a new one.

        Args:
            component: Airflow's job, or what stands for a task.
        """
        metrics = sys.modules.get("keepline.airflow.metrics")
        if metrics is not None:
            metrics.end()
        try:
            flush_task(component)
        finally:
            self._stop_pool()

    def _stop_pool(self) -> None:
        pool: Pool | None = self.__dict__.pop(_POOL, None)
        if pool is None:
            return
        spool = pool.spool
        refused, left = pool.refused, pool.stop(configuration.stop_timeout())
        if left:
            log.warning(
                "keepline stopped with %d OpenLineage events not emitted yet; they wait in %s for the next "
                "scheduler to start (or raise [keepline] stop_timeout)",
                left,
                spool,
            )
        if refused:
            log.warning("keepline had no room for %d OpenLineage events, which are lost", refused)

    def _execute(self, callable: Callable[[], object], callable_name: str, use_fork: bool = False) -> None:  # noqa: A002
        # The provider asks for a fork where the process is a task's.
        if use_fork and tasks.by_thread():
            tasks.emit(callable, callable_name)
        else:
            super()._execute(callable, callable_name, use_fork=use_fork)

    def _terminate_with_wait(self, process: psutil.Process) -> None:
        # The provider comes here when a child that emits a task's event takes too long, and for whatever else
        # ends its waiting for that child: a time limit of the task, or its end, which it would swallow.
        super()._terminate_with_wait(process)
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, Exception):
            raise error


def _guard_all(listener: type[OpenLineageListener]) -> None:
    for name in dir(listener):
        hook = getattr(listener, name)
        if callable(hook) and hasattr(hook, _HOOK_MARK):
            setattr(listener, name, guarded(hook))


_guard_all(KeeplineListener)
