"""A pytest plugin: the provider's tests get Keepline's listener wherever they make the provider's.

The name ``OpenLineageListener`` stands for Keepline's class, so that what tests patch on it is patched there,
and one that is made is taken over as at the start of a process. What a test puts in the place of the
provider's executor takes the place of Keepline's pool, and is given what that would be given.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from airflow.providers.openlineage.plugins import listener as provider
from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter

from keepline.airflow import listener as ours
from keepline.airflow.listener import _POOL, KeeplineListener
from keepline.airflow.resident import Resident

_initialise, _Pool = KeeplineListener.__init__, ours.Pool


class Caller(Resident):
    """A resident that opens no database."""

    def __init__(self) -> None:
        self._adapter = OpenLineageAdapter()


class TestsExecutor:
    """An executor of a test, as a pool."""

    __test__ = False
    spool, refused = None, 0

    def __init__(self, executor: Any) -> None:
        self.executor = executor

    def submit(self, _: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hand the executor what a worker of the pool would run."""
        return self.executor.submit(Caller().run, function, args, kwargs)

    def stop(self, _: float) -> int:
        """Shut the executor down; nothing is left."""
        self.executor.shutdown(wait=True)
        return 0


def _make(self: KeeplineListener) -> None:
    _initialise(self)
    KeeplineListener.take_over(self)


def _make_pool(build: Any, *, workers: int, **settings: Any) -> Any:
    patched = hasattr(provider.ProcessPoolExecutor, "assert_called_once")
    if not patched:
        return _Pool(build, workers=workers, **settings)
    return TestsExecutor(provider.ProcessPoolExecutor(max_workers=workers, initializer=build))


def _executor(self: KeeplineListener) -> Any:
    pool = self.__dict__.get(_POOL)
    return pool.executor if isinstance(pool, TestsExecutor) else pool


def _put_executor(self: KeeplineListener, executor: Any) -> None:
    self.__dict__.pop(_POOL, None)
    if executor is not None:
        self.__dict__[_POOL] = TestsExecutor(executor)


KeeplineListener.__init__ = _make
KeeplineListener._executor = property(_executor, _put_executor)
ours.Pool = _make_pool
provider.OpenLineageListener = KeeplineListener


@pytest.fixture(autouse=True)
def _still_in_place() -> Iterator[None]:
    assert provider.OpenLineageListener is KeeplineListener
    yield
    assert provider.OpenLineageListener is KeeplineListener
