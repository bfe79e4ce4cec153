"""The process that emits in bench/delivery.py: ``python peer.py EVENTS [--ready]``.

It makes all events, then emits them with the transport that its openlineage.yml configures, and waits until
that has done with them. It prints a JSON object: what that took. With ``--ready`` the transport is given
JSON, so that what it costs to make it isn't counted.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import feed
from children import memory
from openlineage.client import OpenLineageClient
from openlineage.client.serde import Serde


def main(many: int, ready: bool) -> None:
    emitter = OpenLineageClient().transport
    events: list[Any] = list(feed.events(many))
    if ready:
        events = [Serde.to_json(event) for event in events]
        Serde.to_json = staticmethod(lambda text: text)  # type: ignore[method-assign]
    began, used = time.perf_counter(), time.process_time()
    for event in events:
        emitter.emit(event)
    if not emitter.close(timeout=60):
        raise SystemExit("events are left after 60 s")
    took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - used}
    json.dump({"kind": emitter.kind, **took, "memory": memory()[1]}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), "--ready" in sys.argv)
