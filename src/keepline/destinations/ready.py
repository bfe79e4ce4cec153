"""Legs ready to be delivered to: accepted by the client, and with their endpoints where delivery is native.

The client and what it imports take as much memory as all else that a relay does. Where nothing but endpoints
is wanted of it, a child of the relay reads them, and the relay does without it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from keepline.config import Leg
from keepline.destinations.endpoint import Endpoint

_READ_SECONDS = 30
_MOST_BYTES = 65536


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
    # With other threads, a forked child could wait for ever for what one of them has locked.
    if "openlineage.client" not in sys.modules and threading.active_count() == 1:
        endpoints = _read_by_child(legs)
        if endpoints is not None:
            return [ReadyLeg(leg, endpoint) for leg, endpoint in zip(legs, endpoints, strict=True)]
    return [ReadyLeg(leg, endpoint) for leg, endpoint in zip(legs, _read(legs), strict=True)]


def _read(legs: Sequence[Leg]) -> list[Endpoint | None]:
    from keepline.destinations.legs import parse
    from keepline.destinations.native import endpoint_of

    return [endpoint_of(parse(leg)) for leg in legs]


def _read_by_child(legs: Sequence[Leg]) -> list[Endpoint | None] | None:
    """The endpoints; ``None`` when the child didn't come to any, and this process has to see why."""
    theirs, ours = os.pipe()
    try:
        child = os.fork()
    except OSError:
        os.close(theirs)
        os.close(ours)
        return None
    if child == 0:
        _be_the_child(legs, ours)
    os.close(ours)
    text = None
    try:
        text = _all_of(theirs)
    finally:
        os.close(theirs)
        # Whoever started this process may have it not collect its children.
        with suppress(ProcessLookupError, ChildProcessError):
            if text is None:
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if not text:
        return None
    return [Endpoint.from_json(one) if one else None for one in json.loads(text)]


def _be_the_child(legs: Sequence[Leg], pipe: int) -> None:
    try:
        # Should the relay be killed meanwhile, this must not outlive it for long.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_READ_SECONDS)
        texts = [endpoint.to_json() if endpoint else "" for endpoint in _read(legs)]
        with os.fdopen(pipe, "w") as file:
            json.dump(texts, file)
    finally:
        # Neither the relay's own way to end nor that of a module that was imported.
        os._exit(0)


def _all_of(pipe: int) -> bytes | None:
    """What is written until the pipe is closed; ``None`` if that takes too long."""
    deadline = time.monotonic() + _READ_SECONDS
    readable = select.poll()
    readable.register(pipe, select.POLLIN)
    text = b""
    while readable.poll(max(deadline - time.monotonic(), 0.0) * 1000):
        some = os.read(pipe, _MOST_BYTES)
        if not some:
            return text
        text += some
    return None  # It hangs in a module that the client or a leg imports.
