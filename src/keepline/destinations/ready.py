"""Legs ready to be delivered to: accepted by the client, and with their endpoints where delivery is native.

The client and what it imports take as much memory as all else that a relay does. Where nothing but endpoints
is wanted of it, a child of the relay reads them, and the relay does without it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from keepline.apart import apart
from keepline.config import Leg
from keepline.destinations.endpoint import Endpoint

_READ_SECONDS = 30.0


@dataclass(frozen=True)
class ReadyLeg:
    """A leg whose settings the client has accepted.

    Args:
        leg: as configured.
        endpoint: where to post to; ``None`` for a leg that the client's own transport delivers.
    """

    leg: Leg
    endpoint: Endpoint | None


def ready(legs: Sequence[Leg]) -> list[ReadyLeg]:
    """Have the client judge legs, and read their endpoints.

    Args:
        legs: as configured.

    Raises:
        Exception: whatever the client raises for such a leg, with its own message.
    """
    endpoints = None if "openlineage.client" in sys.modules else _read_apart(legs)
    if endpoints is None:
        endpoints = _read(legs)
    return [ReadyLeg(leg, endpoint) for leg, endpoint in zip(legs, endpoints, strict=True)]


def _read(legs: Sequence[Leg]) -> list[Endpoint | None]:
    # Here because they import the whole client.
    from keepline.destinations.legs import parse
    from keepline.destinations.native import endpoint_of

    return [endpoint_of(parse(leg)) for leg in legs]


def _read_apart(legs: Sequence[Leg]) -> list[Endpoint | None] | None:
    """The endpoints; ``None`` when the child didn't come to any, and this process has to see why."""

    def work() -> str:
        return json.dumps([endpoint.to_json() if endpoint else None for endpoint in _read(legs)])

    text = apart(work, seconds=_READ_SECONDS)
    return None if text is None else [Endpoint.from_json(one) if one else None for one in json.loads(text)]
