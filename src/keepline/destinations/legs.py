"""The entries of the ``transports`` map, parsed with openlineage-python's own classes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from openlineage.client.transport import Config, Transport, get_default_factory
from openlineage.client.transport.http import HttpConfig, HttpTransport
from openlineage.client.utils import import_from_string

from keepline.config import Leg
from keepline.errors import ConfigError

_SHORTEST_SECRET = 6
_SECRET_WORDS = ("key", "token", "secret", "password", "auth", "header")


@dataclass(frozen=True)
class ParsedLeg:
    """A leg whose settings the client has accepted.

    Args:
        leg: as configured.
        transport_class: what the client would build.
        config: the client's own configuration object. It may hold secrets: never print it.
    """

    leg: Leg
    transport_class: type[Transport]
    config: Config


def parse(leg: Leg) -> ParsedLeg:
    """Parse a leg as the client's factory does, without building its transport.

    Source: openlineage-python, ``client/transport/factory.py``.

    Args:
        leg: as configured.

    Raises:
        ConfigError: its type names no transport.
        Exception: whatever the client's configuration class raises, so that a bad leg fails with the
            client's own message.
    """
    found = get_default_factory().transports.get(leg.kind, leg.kind)
    transport_class = import_from_string(found) if isinstance(found, str) else found
    if not inspect.isclass(transport_class) or not issubclass(transport_class, Transport):
        raise ConfigError(f"transports.{leg.name}.type", leg.kind, "the class of a transport")
    config_class: Any = transport_class.config_class
    if isinstance(config_class, str):
        config_class = import_from_string(config_class)
    config = config_class.from_dict(copy.deepcopy(dict(leg.params)))
    if leg.kind in ("http", "async_http"):
        # The transport's constructor is where the client checks the URL; this one opens nothing.
        HttpTransport(HttpConfig(url=config.url, endpoint=config.endpoint))
    return ParsedLeg(leg, transport_class, config)


def build(parsed: ParsedLeg) -> Transport:
    """Build the client's own transport of a leg.

    Args:
        parsed: the leg.
    """
    transport = parsed.transport_class(parsed.config)  # type: ignore[call-arg]
    if not transport.name:
        transport.name = parsed.leg.name
    if not transport.priority:
        transport.priority = parsed.leg.priority
    return transport


def secrets_of(params: Mapping[str, Any]) -> frozenset[str]:
    """Every text in a leg's settings that must not be shown, by the names of its keys.

    Args:
        params: of a leg.
    """
    return frozenset(text for text in _texts(params, secret=False) if len(text) >= _SHORTEST_SECRET)


def _texts(value: object, *, secret: bool) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            named = any(word in str(key).lower() for word in _SECRET_WORDS)
            # The kind of an authentication is no secret, and masking it would garble every message.
            yield from _texts(inner, secret=(secret or named) and key != "type")
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner, secret=secret)
    elif secret and isinstance(value, str):
        yield value


def mask(text: str, secrets: frozenset[str]) -> str:
    """A text without secrets.

    Args:
        text: to be shown.
        secrets: of the leg.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
