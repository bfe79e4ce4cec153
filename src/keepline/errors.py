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
    ├── ReconcileError         Airflow's database and the outbox can't be compared
    ├── SandboxError           the demo's Airflow doesn't do what was asked (keepline.demo.airflow_home)
    └── PoolError              a call to a pool can't be carried out
        ├── PoolStopped        the pool has been stopped
        ├── WorkerCrashed      the call's workers died under it, as often as is allowed
        └── CallNotSent        the call or its result can't be sent between processes

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
    """The pool has been stopped, or was stopped before the call could be carried out."""


class WorkerCrashed(PoolError):
    """The call's workers died under it, as often as is allowed."""


class CallNotSent(PoolError):
    """The call, or its result, can't be sent between processes."""
