"""What lives in a worker of the listener's pool: one adapter, one client, one transport set, for its life."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from airflow.providers.openlineage.plugins import listener as provider
from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter

from keepline.airflow import settled
from keepline.airflow.guard import tell
from keepline.airflow.measuring import spare_events

log = logging.getLogger(__name__)

_CLOSE_SECONDS = 2.0
_OF_ADAPTER = "adapter."  # begins the name of an adapter's method; no function's name has a dot


@dataclass(frozen=True)
class AdapterMethod:
    """Names a method of the adapter, in place of a bound method, which would carry a whole adapter along.

    Args:
        name: of the method.
    """

    name: str


def named(callable_: object) -> object:
    """A callable by its name, if it is the provider's: that is pickled in a fraction of the time.

    Args:
        callable_: what the provider submits to its pool.
    """
    name = getattr(callable_, "__name__", "")
    if isinstance(getattr(callable_, "__self__", None), OpenLineageAdapter):
        return _OF_ADAPTER + name
    return name if getattr(provider, name, None) is callable_ else callable_


def portable(value: object) -> object:
    """A bound method of an adapter as its name; anything else as it is.

    Args:
        value: an argument that the provider submits to its pool.
    """
    if isinstance(getattr(value, "__self__", None), OpenLineageAdapter):
        return AdapterMethod(value.__name__)  # type: ignore[attr-defined]
    return value


class Resident:
    """Runs what the provider submits to its pool, on one adapter.

    Provider 2.20 and later keep an adapter for each process themselves (apache/airflow, ``listener.py``,
    ``_get_process_adapter``); theirs is used then, so that there is only one.
    """

    def __init__(self) -> None:
        spare_events()  # the plugin has done so in a forked worker's parent, but not for a fresh one
        initialise = getattr(provider, "_executor_initializer", None)
        if initialise is not None:
            initialise()
        make: Callable[[], OpenLineageAdapter] = getattr(provider, "_get_process_adapter", OpenLineageAdapter)
        self._adapter = make()

    def run(self, function: object, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Call a function of the provider's, or a method of the adapter; what goes wrong is logged here.

        Args:
            function: a callable, or the name of one, as :func:`named` gives it.
            args: its arguments; an :class:`AdapterMethod` stands for the adapter's bound method.
            kwargs: its keyword arguments.
        """
        try:
            settled.wait(function, args, kwargs)
            callable_: Any = self._called(function) if isinstance(function, str) else function
            callable_(*map(self._resolve, args), **kwargs)
        except MemoryError:
            raise  # another worker tries it again
        except Exception as error:
            tell(log, "An OpenLineage event was not emitted", error)

    def _called(self, name: str) -> object:
        if name.startswith(_OF_ADAPTER):
            return getattr(self._adapter, name[len(_OF_ADAPTER) :])
        return getattr(provider, name)

    def _resolve(self, value: object) -> object:
        return getattr(self._adapter, value.name) if isinstance(value, AdapterMethod) else value

    def close(self) -> None:
        """Close the client, if one was made, within a bounded time."""
        client = getattr(self._adapter, "_client", None)
        if client is not None:
            client.close(_CLOSE_SECONDS)


def build_resident() -> Resident:
    """Build the resident of a worker; a module-level function, so that any start method can name it."""
    return Resident()
