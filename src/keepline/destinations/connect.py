"""Which destination a leg gets: native delivery where that can be, the client's own transport elsewhere."""

from __future__ import annotations

import asyncio

from keepline.destinations.base import Destination, Done
from keepline.destinations.curl import CurlLoop
from keepline.destinations.http import HttpDestination
from keepline.destinations.ready import ReadyLeg


def connect(
    ready: ReadyLeg, loop: asyncio.AbstractEventLoop, curl: CurlLoop, capacity: int, done: Done
) -> Destination:
    """Make the destination of a leg. Nothing is connected before its first try.

    Args:
        ready: the leg.
        loop: of the relay.
        curl: of that loop.
        capacity: most tries at once, where the destination can take several.
        done: called on the loop with the event's id and the answer to each try.

    Raises:
        Exception: the client's own, for a leg that it can't take.
    """
    if ready.endpoint is not None:
        return HttpDestination(ready.endpoint, curl, done, capacity=capacity)
    # Here because it imports the whole client.
    from keepline.destinations.openlineage import DrivenDestination

    return DrivenDestination(ready.leg, loop, done)
