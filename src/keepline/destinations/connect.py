"""Which destination a leg gets: native delivery where that can be, the client's own transport elsewhere."""

from __future__ import annotations

import asyncio

from keepline.destinations.base import Destination, Done
from keepline.destinations.curl import CurlLoop
from keepline.destinations.endpoint import endpoint_of
from keepline.destinations.http import HttpDestination
from keepline.destinations.legs import ParsedLeg
from keepline.destinations.openlineage import DrivenDestination


def connect(
    leg: ParsedLeg, loop: asyncio.AbstractEventLoop, curl: CurlLoop, capacity: int, done: Done
) -> Destination:
    """Make the destination of a leg. Nothing is connected before its first try.

    Args:
        leg: parsed.
        loop: of the relay.
        curl: of that loop.
        capacity: most tries at once, where the destination can take several.
        done: called on the loop with the event's id and the answer to each try.

    Raises:
        Exception: the client's own, for a leg that it can't take.
    """
    endpoint = endpoint_of(leg)
    if endpoint is None:
        return DrivenDestination(leg, loop, done)
    return HttpDestination(endpoint, curl, done, capacity=capacity)
