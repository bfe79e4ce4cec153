"""The numbers that bound the relay and the outbox, each with a default that suits a single host."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from keepline.errors import ConfigError
from keepline.outbox.record import MAX_RECORD_BYTES

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt])(i?)b", re.ASCII | re.IGNORECASE)
_LEAST_OUTBOX = 1 << 20


@dataclass(frozen=True)
class Tuning:
    """The numbers among the settings. Seconds, unless a name says otherwise; all greater than 0."""

    relay_idle: float = 60.0
    """How long the outbox has to be empty before a relay started by ``auto`` ends."""
    look_every: float = 5.0
    """How often, at most, a process that appends looks whether a relay lives."""
    max_connections: int = 64
    """Most connections of a relay, shared out among its destinations; each has at least one."""
    backoff_first: float = 0.5
    """Upper end of the first pause after a destination went out; doubles with each failed probe."""
    backoff_max: float = 30.0
    """Cap of the pause between two probes."""
    retry_after_max: float = 300.0
    """Cap of a pause that a destination asks for with Retry-After."""
    poison_attempts: int = 10
    """How often an event may fail while others of its destination succeed before it becomes a dead letter."""
    poison_after: float = 600.0
    """And for how long, at least."""
    retention: float = 7 * 86400.0
    """How long a delivered event is kept."""
    max_bytes: int = 8 << 30
    """What journal, archive and ledger may take up together; an outbox as large refuses events. At least
    1 MiB. It can be exceeded by a segment and an event."""
    max_event_bytes: int = 64 << 20
    """Size of the largest event, as JSON, that is accepted; at most 256 MiB."""
    segment_bytes: int = 16 << 20
    """Size at which a journal segment is full and the next one begins; an eighth of ``max_bytes`` at most."""
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
            ConfigError: one of them isn't a number greater than 0, or they don't go together.
        """
        tuning = cls(**{key: _number(key, params[key]) for key in KEYS if key in params})
        tuning._check()
        return tuning

    def _check(self) -> None:
        if self.backoff_first > self.backoff_max:
            raise ConfigError(
                "backoff_first", self.backoff_first, f"at most `backoff_max`, which is {self.backoff_max}"
            )
        if self.max_bytes < _LEAST_OUTBOX:
            raise ConfigError("max_bytes", self.max_bytes, f"at least 1MiB ({_LEAST_OUTBOX} bytes)")
        if self.max_event_bytes > MAX_RECORD_BYTES:
            raise ConfigError(
                "max_event_bytes", self.max_event_bytes, f"at most 256MiB ({MAX_RECORD_BYTES} bytes)"
            )


KEYS = frozenset(field.name for field in fields(Tuning))
"""The names of these settings."""


def _number(key: str, value: Any) -> Any:
    whole = isinstance(getattr(Tuning, key), int)
    size = key.endswith("_bytes")
    try:
        read = _bytes(value) if size else value
        number = int(read) if whole else float(read)
        cut = not isinstance(read, str) and number != read
    except (TypeError, ValueError, OverflowError):
        number, cut = -1, False
    if isinstance(value, bool) or cut or not 0 < number < float("inf"):
        expected = f"a {'whole ' if whole else ''}number greater than 0"
        raise ConfigError(key, value, expected + (", or a size such as `512MiB`" if size else ""))
    return number


def _bytes(value: Any) -> Any:
    """The number in a size such as ``2GB`` or ``512 MiB``; what is none comes back as it is."""
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return value
    number, unit, binary = match.groups()
    return round(float(number) * (1024 if binary else 1000) ** (1 + "kmgt".index(unit.lower())))
