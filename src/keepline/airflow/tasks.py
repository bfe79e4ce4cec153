"""Emitting a task's events: a thread of the task's process, bounded in time, where the provider forks.

Up to 2.19 the provider forks the process of a task for each of its events, and waits for the child; from 2.20
on it can be told to use a thread (``[openlineage] execute_in_thread``). A child has whatever locks were held
when it was forked, held for ever, and the task's connection to its supervisor, which both then use at once:
so tasks hang. A thread has neither. What can take long in it is extraction alone, for with Keepline's
transport an event is emitted by an append; when it takes longer than ``[openlineage] execution_timeout``, the
task goes on without it, and the thread goes on beside it, until the process ends. The rules for that:

- It never takes an answer that the supervisor gives to the task (:mod:`keepline.airflow.supervisor`).
- It never asks for anything through the database session of who waits for it: neither a session nor an
  SQLite connection is made for two threads (Airflow 2). What a task has belongs to none; what a scheduler has
  that has found a task dead does.
- It emits nothing that a later event of the task has overtaken: a START that comes after its COMPLETE would
  have receivers show a run that runs for ever.
"""

from __future__ import annotations

import contextvars
import functools
import itertools
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from airflow import settings
from airflow.providers.openlineage import conf
from airflow.providers.openlineage.utils.utils import AIRFLOW_V_3_0_PLUS

from keepline.airflow import configuration, supervisor
from keepline.airflow.guard import tell
from keepline.errors import EmissionGivenUp

log = logging.getLogger(__name__)

_TIMEOUT = 10.0  # seconds, the provider's own default
_MOST_GIVEN_UP = 4  # that may live on in a process: a task's, and the scheduler's on Airflow 2
_numbers = itertools.count(1)
_given_up: list[Emitter] = []
_latest: dict[object, int] = {}  # number of the latest that has come to emitting an event of a run


class Emitter(threading.Thread):
    """Emits one event, or fails to; nothing that happens in it gets out of it.

    Args:
        emit: extracts and emits, and may raise anything.
        name: of the provider's function, for the log.
    """

    def __init__(self, emit: Callable[[], object], name: str) -> None:
        # A daemon, or a process that ends as others do, not by os._exit(), would wait for it.
        super().__init__(name=f"openlineage-{name}", daemon=True)
        self.number = next(_numbers)
        self.given_up = False
        self._context = contextvars.copy_context()
        self._emit = emit
        self._what = name

    def run(self) -> None:
        """Emit; what goes wrong is logged."""
        try:
            self._context.run(self._emit)
        except BaseException as error:  # an exit too: it would have ended no more than a child
            tell(log, f"OpenLineage {self._what} failed", error)
        finally:
            self._close_session()

    def _close_session(self) -> None:
        # Airflow 2 opens a session for whoever asks for a task's context, and leaves it open.
        if not AIRFLOW_V_3_0_PLUS:
            with suppress(Exception):
                settings.Session.remove()


def in_turn(emit: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Have an adapter's method emit nothing that was overtaken.

    Args:
        emit: the method.
    """

    @functools.wraps(emit)
    def emit_in_turn(event: Any) -> Any:
        emitter = threading.current_thread()
        if isinstance(emitter, Emitter):
            run = event.run.runId
            if emitter.number < _latest.get(run, 0):
                raise EmissionGivenUp("it took so long that a later event of the task was emitted before it")
            _latest[run] = emitter.number
        return emit(event)

    return emit_in_turn


def by_thread() -> bool:
    """Whether a task emits in a thread: as configured, and where the supervisor's answers are safe."""
    return configuration.tasks_emit_in_thread() and supervisor.share()


def emit(callable_: Callable[[], object], name: str) -> None:
    """Have a thread emit, and wait for it for no longer than ``[openlineage] execution_timeout``.

    Args:
        callable_: extracts and emits.
        name: of the provider's function.

    Raises:
        EmissionGivenUp: too many threads are at it already, and don't come to an end.
        BaseException: what ends the task while it waits, as a time limit or SIGTERM does.
    """
    _given_up[:] = [one for one in _given_up if one.is_alive()]
    if not _given_up:
        _latest.clear()  # nobody is left who could be overtaken
    if len(_given_up) >= _MOST_GIVEN_UP:
        raise EmissionGivenUp(f"{len(_given_up)} extractions before it haven't come to an end")
    _keep_session()
    emitter = Emitter(callable_, name)
    done = False
    try:
        emitter.start()
        emitter.join(_timeout())
        done = not emitter.is_alive()
    finally:
        if not done:
            _give_up(emitter)
    if emitter.given_up:
        log.warning(
            "OpenLineage %s takes more than [openlineage] execution_timeout, %g s; the task goes on without "
            "it, and this has no impact on task status",
            name,
            _timeout(),
        )


def _timeout() -> float:
    try:
        return max(float(conf.execution_timeout()), 0.0)
    except Exception:  # Airflow's error has another class in each version
        log.warning("[openlineage] execution_timeout is not a number of seconds; %g is used", _TIMEOUT)
        return _TIMEOUT


def _give_up(emitter: Emitter) -> None:
    emitter.given_up = True
    _given_up.append(emitter)


def _keep_session() -> None:
    """Keep this thread's database session from the threads that emit."""
    if AIRFLOW_V_3_0_PLUS:
        return  # where tasks have none, and nothing else emits for them
    from sqlalchemy import event

    with suppress(Exception):  # Airflow's internal API has no session
        event.listen(settings.Session(), "do_orm_execute", _refuse)


def _refuse(_: object) -> None:
    if isinstance(threading.current_thread(), Emitter):
        raise EmissionGivenUp("it asks for what hasn't been loaded from the database")
