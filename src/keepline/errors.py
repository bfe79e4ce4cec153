"""Every error that Keepline raises.

::

    KeeplineError
    ├── ConfigError            a setting is wrong: names the setting, its value and what was expected
    ├── EventError             an event can't be turned into JSON
    ├── OutboxError            the outbox can't do what was asked
    │   ├── OutboxUnavailable  its folder or files can't be opened or written (path, rights, disk full)
    │   ├── OutboxLocked       a lock was held longer than the bound
    │   └── OutboxDamaged      what it holds can't be read
    ├── RelayError             the relay can't be started, stopped or reached
    ├── EmissionGivenUp        a task's event came too late to be emitted
    ├── ReconcileError         Airflow's database and the outbox can't be compared
    ├── SandboxError           the demo's Airflow doesn't do what was asked (keepline.demo.airflow_home)
    └── PoolError              a call to a pool can't be carried out
        ├── PoolStopped        the pool has been stopped
        ├── CallRefused        there is no room for the call
        └── CallNotSent        the call can't be sent to another process

Each message says what was tried, on what, and the remedy.
"""

from __future__ import annotations


class KeeplineError(Exception):
    """Base of every error of this package."""


class ConfigError(KeeplineError, ValueError):
    """A setting is wrong.

    Args:
        setting: the setting's name as the user writes it, for example ``transports.trove.url``.
        value: what was found; give ``"<hidden>"`` for a secret.
        expected: what would have been right, in words.
    """

    def __init__(self, setting: str, value: object, expected: str) -> None:
        super().__init__(f"keepline setting `{setting}` is {value!r}; expected {expected}")
        self.setting = setting


class EventError(KeeplineError, ValueError):
    """An event can't be turned into JSON."""


class OutboxError(KeeplineError):
    """The outbox can't do what was asked."""


class OutboxUnavailable(OutboxError):
    """The outbox's folder or one of its files can't be opened or written."""


class OutboxLocked(OutboxError):
    """A lock of the outbox was held longer than the bound."""


class OutboxDamaged(OutboxError):
    """What the outbox holds can't be read."""


class RelayError(KeeplineError):
    """The relay can't be started, stopped or reached."""


class ReconcileError(KeeplineError):
    """Airflow's database and the outbox can't be compared as asked."""


class PoolError(KeeplineError):
    """A call to a pool can't be carried out."""


class PoolStopped(PoolError):
    """The pool has been stopped and takes no more calls."""


class CallRefused(PoolError):
    """There is no room for the call."""


class CallNotSent(PoolError):
    """The call can't be sent to another process."""


class EmissionGivenUp(KeeplineError):
    """A task's event came too late to be emitted; says what it was too late for."""
