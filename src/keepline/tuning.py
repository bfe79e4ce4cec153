"""The numbers that bound the relay and the outbox, each with a default that suits a single host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from keepline.errors import ConfigError


@dataclass(frozen=True)
class Tuning:
    """The numbers among the settings. Seconds, unless a name says otherwise; all greater than 0."""

    relay_idle: float = 60.0
    """How long the outbox has to be empty before a relay started by ``auto`` ends."""
    look_every: float = 5.0
    """How often, at most, a process that appends looks whether a relay lives."""
    max_connections: int = 4
    """Most connections, and so requests at once, of the whole relay; at least one for each destination."""
    poison_attempts: int = 10
    """How often an event fails while others of its destination succeed, before it is a dead letter."""
    poison_after: float = 600.0
    """How long it is tried at least, from the first of these failures on."""
    backoff_first: float = 0.5
    """Upper end of the first pause after a destination went out; doubles with each failed probe."""
    backoff_max: float = 30.0
    """Cap of the pause between two probes."""
    retry_after_max: float = 300.0
    """Cap of a pause that a destination asks for with Retry-After."""
    retention: float = 7 * 86400.0
    """How long a delivered event is kept."""
    max_bytes: int = 8 * 1024 * 1024 * 1024
    """Most bytes of the whole outbox."""
    segment_bytes: int = 16 * 1024 * 1024
    """Size at which a journal segment is full and the next one begins."""
    lock_timeout: float = 2.0
    """Longest wait for a lock of the outbox."""
    stop_timeout: float = 5.0
    """Longest wait for requests under way when the relay stops."""
    exit_timeout: float = 10.0
    """Longest wait for deliveries when a process with ``relay: inline`` ends."""

    @classmethod
    def from_dict(cls, params: Mapping[str, Any]) -> Tuning:
        """Take the numbers out of a transport configuration; what it doesn't say has its default.

        Args:
            params: the ``transport`` mapping of an OpenLineage configuration.

        Raises:
            ConfigError: one of them isn't a number greater than 0.
        """
        return cls(**{key: _number(key, params[key]) for key in KEYS if key in params})


KEYS = frozenset(field.name for field in fields(Tuning))
"""The names of these settings."""


def _number(key: str, value: Any) -> Any:
    wanted = type(getattr(Tuning, key))
    try:
        number = wanted(value)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if isinstance(value, bool) or not 0 < number < float("inf"):
        raise ConfigError(key, value, "a number greater than 0")
    return number
