"""Settings under which the client's transports answer for themselves: when ``emit()`` is done, the event is.

Several of them only queue an event, and would have it marked as delivered before it is. And several try
again by themselves, for as long as a Retry-After says, where the lane has its own mind about that. Kafka's
client holds an event for five minutes, and would send it then however often it was tried again meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from keepline.config import Leg

_KAFKA = ("kafka", "msk-iam")
_KAFKA_TIMEOUT = "message.timeout.ms"
# With any of these, somebody has set it already, or it would have to fit them.
_KAFKA_SETS_IT = (_KAFKA_TIMEOUT, "delivery.timeout.ms", "default.topic.config", "transaction.timeout.ms")
_KAFKA_MS = 45_000
"""Less than the time after which the thread of a try is given up."""
_ONCE = {"total": 0, "status_forcelist": []}
_CHANGES: dict[str, dict[str, Any]] = {
    "http": {"retry": _ONCE},
    # The same requests with the same settings, one after another.
    "async_http": {"type": "http", "retry": _ONCE},
    "datadog": {"retry": _ONCE, "async_transport_rules": {}},
    # Or what one of them has taken would count for those that failed.
    "composite": {"continue_on_failure": False},
    **{kind: {"flush": True} for kind in _KAFKA},
}


def blocking(leg: Leg) -> Leg:
    """A leg that delivers the same, one event after another and once each.

    Args:
        leg: as configured; transports may be nested in it.
    """
    changed = _changed({**leg.params, "type": leg.kind})
    kind = changed.pop("type")
    return replace(leg, kind=kind, params=changed)


def _changed(value: Any) -> Any:
    if isinstance(value, Mapping):
        inner = {key: _changed(each) for key, each in value.items()}
        kind = inner.get("type")
        return _in_time({**inner, **(_CHANGES.get(kind, {}) if isinstance(kind, str) else {})})
    if isinstance(value, (list, tuple)):
        return [_changed(each) for each in value]
    return value


def _in_time(entry: dict[str, Any]) -> dict[str, Any]:
    config = entry.get("config")
    if entry.get("type") not in _KAFKA or not isinstance(config, Mapping):
        return entry
    if any(name in config for name in _KAFKA_SETS_IT):
        return entry
    return {**entry, "config": {**config, _KAFKA_TIMEOUT: _KAFKA_MS}}
