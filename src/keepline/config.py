"""Every setting of Keepline, parsed once into frozen objects.

The settings stand in the transport configuration of OpenLineage, beside the keys of its composite transport
(openlineage-python, ``client/transport/composite.py``), which keep their names and meaning.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from keepline import tuning
from keepline.errors import ConfigError
from keepline.tuning import Tuning

log = logging.getLogger(__name__)

_E = TypeVar("_E", bound=Enum)

TRANSPORT_TYPES = frozenset({"keepline.Transport", "keepline.transport.Transport"})
"""The names of Keepline's transport in a configuration: as documented, and in full."""
OUTBOX_VARIABLE = "KEEPLINE_OUTBOX"

_COMPOSITE_KEYS = frozenset({"continue_on_failure", "continue_on_success", "sort_transports"})
_OTHER_KEYS = frozenset({"type", "name", "priority", "transports", "outbox", "relay", "durability"})
# What the client's datadog transport takes from the environment when its configuration doesn't say it.
_READ_BY_LEGS = ("DD_API_KEY", "DD_SITE")


class RelayMode(Enum):
    """Who delivers what this process appends."""

    AUTO = "auto"
    """The first append of a host starts the relay, which ends by itself when there is nothing left to do."""
    EXTERNAL = "external"
    """Somebody runs ``keepline relay``; this process only appends."""
    INLINE = "inline"
    """A thread of this process delivers while it lives; what is left at its end stays in the outbox."""


class Durability(Enum):
    """What an event survives once it was accepted."""

    PROCESS = "process"
    """The death of any process."""
    POWER = "power"
    """A power cut, too: it is on the disk before ``emit()`` returns."""


@dataclass(frozen=True)
class Leg:
    """One entry of the ``transports`` map: what to build a destination from.

    Args:
        name: the destination's name; unique in its map.
        kind: the transport's ``type``, as the user wrote it.
        priority: higher goes first where ``sort_transports`` is set.
        params: every other key of the entry, untouched. It may hold secrets: never print it.
    """

    name: str
    kind: str
    priority: int
    params: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Leg(name={self.name!r}, kind={self.kind!r}, priority={self.priority})"


@dataclass(frozen=True)
class Settings:
    """What a transport configuration says, checked.

    Args:
        outbox: the outbox's folder, absolute.
        relay: who delivers.
        durability: what an accepted event survives.
        legs: the destinations, in the order in which they are used.
        failover: whether each event is for the first of them that accepts it, and not for all.
        tuning: bounds.
        raw: the configuration as it came, to hand over to a relay. It may hold secrets: never print it.
    """

    outbox: Path
    relay: RelayMode
    durability: Durability
    legs: tuple[Leg, ...]
    failover: bool
    tuning: Tuning
    raw: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Settings(outbox={str(self.outbox)!r}, relay={self.relay.value!r}, legs={self.legs!r})"

    @classmethod
    def from_dict(cls, params: Mapping[str, Any]) -> Settings:
        """Parse a transport configuration.

        Args:
            params: the ``transport`` mapping of an OpenLineage configuration.

        Raises:
            ConfigError: a setting is missing or wrong; names it and says what was expected.
        """
        raw = copy.deepcopy(dict(params))
        for key in sorted(map(str, set(raw) - tuning.KEYS - _COMPOSITE_KEYS - _OTHER_KEYS)):
            log.warning("keepline setting `%s` is not known and has no effect", key)
        return cls(
            outbox=outbox_folder(raw.get("outbox")),
            relay=_one_of(RelayMode, "relay", raw.get("relay", RelayMode.AUTO.value)),
            durability=_one_of(Durability, "durability", raw.get("durability", Durability.PROCESS.value)),
            legs=_legs(raw.get("transports"), sort=_flag(raw, "sort_transports", False)),
            failover=not _flag(raw, "continue_on_success", True),
            tuning=Tuning.from_dict(raw),
            raw=raw,
        )

    def to_json(self) -> str:
        """The configuration for another process of this host: parses to equal settings.

        Raises:
            ConfigError: a leg holds a value that JSON can't carry.
        """
        try:
            return json.dumps({**self.raw, "outbox": str(self.outbox)})
        except (TypeError, ValueError) as error:
            raise ConfigError(
                "transports", "<hidden>", f"plain values that JSON can carry, or `relay: inline` ({error})"
            ) from None

    def digest(self, salt: str) -> str:
        """A name for these settings, which changes when a key does, and tells nothing of them.

        Args:
            salt: random text, kept with the digest.
        """
        read = {name: os.environ.get(name) for name in _READ_BY_LEGS}
        text = json.dumps([{**self.raw, "outbox": str(self.outbox)}, read], sort_keys=True, default=str)
        return hashlib.sha256(f"{salt}\0{text}".encode()).hexdigest()


def outbox_folder(configured: object = None) -> Path:
    """The folder of the outbox: as configured, else ``KEEPLINE_OUTBOX``, else the default.

    The default is ``$AIRFLOW_HOME/keepline`` where that variable is set, and ``~/.keepline`` elsewhere.

    Args:
        configured: the ``outbox`` setting; ``None`` or empty when there is none.

    Raises:
        ConfigError: the setting isn't a path, is a URL of a kind that isn't supported, or needs a home
            folder where there is none.
    """
    value = configured or os.environ.get(OUTBOX_VARIABLE)
    if not value:
        home = os.environ.get("AIRFLOW_HOME")
        value = Path(home) / "keepline" if home else "~/.keepline"
    if not isinstance(value, (str, os.PathLike)) or "\0" in str(value):
        raise ConfigError("outbox", value, "the path of a folder")
    if "://" in str(value):
        raise ConfigError("outbox", str(value).split("://")[0] + "://...", "the path of a folder")
    try:
        folder = Path(value).expanduser()
    except RuntimeError:
        raise ConfigError("outbox", str(value), "the path of a folder; this user has no home") from None
    return Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would follow links


def _one_of(kind: type[_E], key: str, value: object) -> _E:
    try:
        return kind(str(value).strip().lower())
    except ValueError:
        expected = ", ".join(f"`{one.value}`" for one in kind)
        raise ConfigError(key, value, f"one of {expected}") from None


def _legs(transports: object, *, sort: bool) -> tuple[Leg, ...]:
    if isinstance(transports, Mapping):
        entries = [(str(name), entry) for name, entry in transports.items() if entry]
    elif isinstance(transports, (list, tuple)):
        entries = [
            (str(entry.get("name") or f"{entry.get('type', 'transport')}-{number}"), entry)
            if isinstance(entry, Mapping)
            else (str(number), entry)
            for number, entry in enumerate(transports)
        ]
    else:
        raise ConfigError(
            "transports", type(transports).__name__, "a map or a list of transports, as in `composite`"
        )
    if not entries:
        raise ConfigError("transports", transports, "at least one transport")
    legs = [_leg(name, entry) for name, entry in entries]
    names = [leg.name for leg in legs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError("transports", name, "a name of its own for each transport")
    if sort:
        legs.sort(key=lambda leg: leg.priority, reverse=True)
    return tuple(legs)


def _leg(name: str, entry: object) -> Leg:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"transports.{name}", type(entry).__name__, "a map with the transport's settings")
    params = copy.deepcopy(dict(entry))
    params.pop("name", None)
    kind = params.pop("type", None)
    if not isinstance(kind, str) or not kind:
        raise ConfigError(f"transports.{name}.type", kind, "the type of a transport, such as `http`")
    if kind in TRANSPORT_TYPES:
        raise ConfigError(f"transports.{name}.type", kind, "a transport other than Keepline's own")
    priority = params.pop("priority", 0)
    try:
        number = int(priority)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"transports.{name}.priority", priority, "a whole number") from None
    return Leg(name=name, kind=kind, priority=number, params=params)


def _flag(params: Mapping[str, Any], key: str, default: bool) -> bool:
    value = params.get(key, default)
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "1", "yes", "on"):
        return True
    if text in ("false", "0", "no", "off"):
        return False
    raise ConfigError(key, value, "true or false")
