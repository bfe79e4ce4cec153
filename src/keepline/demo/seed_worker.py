"""The process that `keepline demo --seed` measures: emits events as a pool worker of the provider does.

Started as ``python -m keepline.demo.seed_worker``. The first line on its standard input is a JSON object:
``config``, an OpenLineage client's configuration, and ``client_per_event``. Each further line is a number:
how many events to have emitted by then; it is written back when they are. It ends with its standard input.
"""

from __future__ import annotations

import datetime
import json
import os
import resource
import sys
import uuid
from typing import Any

from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import Job, Run, RunEvent, RunState


def main() -> None:
    """Do what the lines on standard input say."""
    order = json.loads(sys.stdin.readline())
    config: dict[str, Any] = order["config"]
    # 400 clients hold more descriptors than the usual soft limit of 1024.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients: list[OpenLineageClient] = []
    if not order["client_per_event"]:
        clients.append(OpenLineageClient(config=config))
    emitted = 0
    for line in sys.stdin:
        while emitted < int(line):
            if order["client_per_event"]:
                # Nobody closes it, and its threads keep it: so it is with the provider's.
                clients.append(OpenLineageClient(config=config))
            clients[-1].emit(event())
            emitted += 1
        print(emitted, flush=True)


def event() -> RunEvent:
    """Make an event of a run of its own."""
    return RunEvent(
        eventType=RunState.START,
        eventTime=datetime.datetime.now(datetime.timezone.utc).isoformat(),
        run=Run(runId=str(uuid.uuid4())),
        job=Job(namespace="keepline-demo", name="seed"),
        producer="urn:keepline:demo",
    )


if __name__ == "__main__":
    main()
    # At once: hundreds of clients' threads would each be waited for.
    os._exit(0)
