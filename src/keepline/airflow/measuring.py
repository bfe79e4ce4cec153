"""The provider's metrics, kept from costing an event.

Its adapter emits inside a timer of Airflow's Stats, and what that raises ends the emission. Airflow 3.3
raises where a metric lacks tags that it wants; providers before 2.16 give none, and so emit nothing there.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import ModuleType, TracebackType
from typing import Any

from airflow.providers.openlineage.plugins import adapter, listener

from keepline.airflow.guard import tell
from keepline.relay.trouble import Seldom

log = logging.getLogger(__name__)

_STATS = ("Stats", "DualStatsManager")
_MEASURES = ("incr", "decr", "gauge", "timing")
_seldom = Seldom()


def spare_events() -> None:
    """Have the provider's modules measure by what never raises. Calling this again changes nothing."""
    modules: tuple[ModuleType, ...] = (adapter, listener)
    for module in modules:
        for name in _STATS:
            stats = getattr(module, name, None)
            if stats is not None and not isinstance(stats, Sparing):
                setattr(module, name, Sparing(stats))


class Sparing:
    """Airflow's Stats; a measure that fails is left out.

    Args:
        stats: Airflow's.
    """

    def __init__(self, stats: Any) -> None:
        self._stats = stats

    def __getattr__(self, name: str) -> Any:
        measure = getattr(self._stats, name)
        if name == "timer":
            return functools.partial(Timer, measure)
        return functools.partial(_measure, measure) if name in _MEASURES else measure


class Timer:
    """A timer of Airflow's for a ``with`` block; the block runs whether it works or not.

    Args:
        make: makes it.
        args: of that.
        kwargs: of that.
    """

    def __init__(self, make: Callable[..., AbstractContextManager[Any]], *args: Any, **kwargs: Any) -> None:
        self._make = functools.partial(make, *args, **kwargs)
        self._timer: AbstractContextManager[Any] | None = None

    def __enter__(self) -> Any:
        def begin() -> Any:
            timer = self._make()
            entered = timer.__enter__()
            self._timer = timer
            return entered

        return _measure(begin)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            _measure(self._timer.__exit__, kind, error, trace)


def _measure(measure: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return measure(*args, **kwargs)
    except Exception as error:
        if _seldom.due():
            tell(log, "A metric of the OpenLineage provider's was left out", error)
        return None
