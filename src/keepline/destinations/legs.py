"""The entries of the ``transports`` map, parsed with openlineage-python's own classes."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass, field
from typing import Any

from openlineage.client.transport import AsyncHttpTransport, Config, Transport, get_default_factory
from openlineage.client.transport.http import HttpConfig, HttpTransport
from openlineage.client.utils import import_from_string

from keepline.config import Leg
from keepline.errors import ConfigError


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
    config: Config = field(repr=False)


def parse(leg: Leg) -> ParsedLeg:
    """Parse a leg as the client's factory does, without building its transport.

    Source: openlineage-python, ``client/transport/factory.py``.

    Args:
        leg: as configured.

    Raises:
        Exception: whatever the client raises for such a leg, with its own message.
    """
    found = get_default_factory().transports.get(leg.kind, leg.kind)
    transport_class = import_from_string(found) if isinstance(found, str) else found
    if not inspect.isclass(transport_class) or not issubclass(transport_class, Transport):
        raise TypeError(
            f"Transport named {leg.name}: {transport_class} has to be class, and subclass of Transport"
        )
    config_class: Any = transport_class.config_class
    if isinstance(config_class, str):
        config_class = import_from_string(config_class)
    if not inspect.isclass(config_class) or not issubclass(config_class, Config):
        raise TypeError(f"Config {config_class} has to be class, and subclass of Config")
    config = config_class.from_dict(copy.deepcopy(dict(leg.params)))
    if transport_class in (HttpTransport, AsyncHttpTransport):
        _check_address(transport_class, config)
    _check_timeout(leg, config)
    return ParsedLeg(leg, transport_class, config)


def _check_timeout(leg: Leg, config: Any) -> None:
    # The client takes any value, and would fail with it at each event.
    timeout = getattr(config, "timeout", None)
    if timeout is None:
        return
    try:
        good = 0 < float(timeout) < float("inf")
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ConfigError(f"transports.{leg.name}.timeout", timeout, "a number of seconds, more than 0")


def _check_address(transport_class: type[Transport], config: Any) -> None:
    # The client checks an address where it builds the transport. Building one for http opens nothing, and
    # without key and headers logs none; one for async_http starts a thread, so it is built only to fail.
    try:
        HttpTransport(HttpConfig(url=config.url, endpoint=config.endpoint))
    except ValueError:
        if transport_class is HttpTransport:
            raise
        transport_class(config).close(0)  # type: ignore[call-arg]
