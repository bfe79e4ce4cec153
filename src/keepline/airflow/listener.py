"""The listener that takes the place of the provider's: its event building, our pool, and guarded hooks."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar, cast

from airflow.providers.common.compat.sdk import hookimpl
from airflow.providers.openlineage.plugins.listener import OpenLineageListener

from keepline.airflow import configuration
from keepline.airflow.resident import build_resident, portable
from keepline.config import RelayMode, Settings
from keepline.outbox.files import OutboxFiles
from keepline.pool import Pool
from keepline.relay.launch import stop
from keepline.relay.lock import running
from keepline.transport import Transport, TransportConfig

log = logging.getLogger(__name__)

_HOOK_MARK = "airflow_impl"
_RELAY_STOP_SECONDS = 6.0

_F = TypeVar("_F", bound=Callable[..., Any])


def guarded(hook: _F) -> _F:
    """Keep whatever a hook raises from its caller: on Airflow 2 it would go up into the scheduler.

    Up to provider 2.19 a child that the provider forks to emit a task's event can come back out of the hook
    when something raises in it, and would go on as a second task. It is ended here.

    Args:
        hook: a method of the listener.
    """

    @functools.wraps(hook)
    def call(self: KeeplineListener, *args: Any, **kwargs: Any) -> Any:
        owner = os.getpid()
        try:
            return hook(self, *args, **kwargs)
        except Exception as error:
            log.warning(
                "keepline: %s failed with %s; this has no impact on task status",
                hook.__name__,
                type(error).__name__,
            )
            log.debug("the failure was", exc_info=True)
            return None
        finally:
            if os.getpid() != owner:
                logging.shutdown()
                os._exit(0)

    return cast("_F", call)


class KeeplineListener(OpenLineageListener):
    """The provider's listener, with a pool that keeps one adapter in each worker.

    It is never constructed: :func:`keepline.airflow.plugin.install` gives this class to the provider's own
    listener, which the provider's other modules hold.
    """

    _executor: Pool | None

    @property
    def executor(self) -> Pool:
        """The pool, made when it is first asked for."""
        if self._executor is None:
            self._executor = Pool(
                build_resident, workers=configuration.pool_size(), name="keepline-openlineage"
            )
        return self._executor

    def submit_callable(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: A002
        """Have a worker run what the provider submits, on the worker's own adapter.

        Args:
            callable: a method of an adapter (up to provider 2.19), or a function of the provider's module.
            args: its arguments.
            kwargs: its keyword arguments.
        """
        future: Future[Any] = self.executor.submit(
            "run", portable(callable), tuple(map(portable, args)), kwargs
        )
        future.add_done_callback(_log_failure)
        return future

    @hookimpl
    def on_starting(self, component: object) -> None:
        """See to it that what an earlier scheduler left in the outbox is delivered.

        Args:
            component: Airflow's job; it can't be told yet which one.
        """
        if "scheduler" in sys.argv[1:2]:
            settings = configuration.settings()
            if settings is not None and settings.relay is RelayMode.AUTO:
                _renew_relay(settings)

    @hookimpl
    def before_stopping(self, component: object) -> None:
        """Stop the pool within a bounded time; a later event makes a new one.

        Args:
            component: Airflow's job.
        """
        pool, self._executor = self._executor, None
        if pool is None:
            return
        lost = pool.stop(configuration.stop_timeout())
        if lost:
            log.warning(
                "keepline: stopped with %d DAG run events not emitted; raise [keepline] stop_timeout", lost
            )


def _log_failure(future: Future[Any]) -> None:
    if future.cancelled():
        return
    error = future.exception()
    if error is not None:
        log.warning("keepline: an OpenLineage event of a DAG run was not emitted: %s", error)
        log.debug("the failure was", exc_info=error)


def _renew_relay(settings: Settings) -> None:
    """Replace a relay of other settings or another version, and start one if something waits."""
    relay = running(OutboxFiles(settings.outbox))
    if relay is not None and not relay.serves(settings):
        log.info("keepline: the relay (pid %d) has other settings and is replaced", relay.pid)
        stop(OutboxFiles(settings.outbox), _RELAY_STOP_SECONDS)
    Transport(TransportConfig.from_dict(dict(settings.raw))).wake()


def _guard_all(listener: type[OpenLineageListener]) -> None:
    for name in dir(listener):
        hook = getattr(listener, name)
        if callable(hook) and hasattr(hook, _HOOK_MARK):
            setattr(listener, name, guarded(hook))


_guard_all(KeeplineListener)
