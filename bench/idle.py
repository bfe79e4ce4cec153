"""What is used when nothing is to be done: keepline's two processes and the client's, idle side by side.

Each process has emitted some events, which have arrived, and keeps what it has: one client, as a pool worker
of keepline does, or one for each event, as the provider's did up to 2.19. Two legs, `http` and `datadog`, to
nginx; `async_http` has one. Then nobody asks anything of anybody for a while, all at the same time.

    python bench/idle.py [--seconds 20] [--events 100] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from children import memory
from figures import Numbers, Table, run, told
from nginx import Nginx

from keepline.demo.processes import cost, cpu_seconds
from keepline.demo.seed_process import SeedProcess
from keepline.outbox.files import OutboxFiles
from keepline.relay.ending import stop
from keepline.relay.lock import running

NUMBERS: Numbers = {
    "seconds": (20.0, 1.0, "how long all stay idle"),
    "events": (100, 5, "events that each has emitted before"),
    "clients": (50, 3, "events of the process that makes a client for each"),
}
_SECONDS = 60.0

EMITTING, RELAY = "keepline: the emitting process", "keepline: its relay"
ONE = "composite of http and datadog, one client"
ASYNC = "async_http, one client"
EACH = "composite of http and datadog, a client for each event"


def configurations(folder: Path, url: str) -> dict[str, dict[str, Any]]:
    legs = {
        "local": {"type": "http", "url": url},
        "datadog": {"type": "datadog", "apiKey": "none", "site": url},
    }
    composite = {"type": "composite", "transports": legs}
    ours = {"type": "keepline.Transport", "outbox": str(folder / "outbox"), "transports": legs}
    return {EMITTING: ours, ONE: composite, ASYNC: {"type": "async_http", "url": url}, EACH: composite}


def switches(pid: int) -> int:
    """Times that its threads were given a processor."""
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):
            lines = (task / "status").read_text().splitlines()
            found += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return found


def idle(pids: dict[str, int], seconds: float) -> dict[str, Any]:
    """What processes use in that time, and what they hold."""
    before = {name: (cpu_seconds(pid), switches(pid)) for name, pid in pids.items()}
    time.sleep(seconds)
    rows: dict[str, Any] = {}
    for name, pid in pids.items():
        cpu, switched = cpu_seconds(pid), switches(pid)
        held = cost(pid)
        rows[name] = {
            "CPU seconds": round(cpu - before[name][0], 4),
            "switches": switched - before[name][1],
            "threads": held.threads,
            "connections": sum(held.connections.values()),
            "memory MB": memory(pid)[0],
        }
    return rows


def wait_for_requests(nginx: Nginx, wanted: int) -> None:
    deadline = time.monotonic() + _SECONDS
    while (found := nginx.look().requests) < wanted:
        if time.monotonic() > deadline:
            raise SystemExit(f"nginx has had {found} of {wanted} requests")
        time.sleep(0.02)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    files = OutboxFiles(options.folder / "outbox")
    pids: dict[str, int] = {}
    with Nginx() as nginx, ExitStack() as stack:
        stack.callback(stop, files, _SECONDS)
        with told("processes emit"):
            for number, (name, transport) in enumerate(configurations(options.folder, nginx.url).items()):
                folder = options.folder / str(number)
                folder.mkdir()
                per_event = name == EACH
                process = stack.enter_context(SeedProcess(folder, transport, client_per_event=per_event))
                events = options.clients if per_event else options.events
                wanted = nginx.look().requests + events * len(transport.get("transports", "1"))
                process.emit_up_to(events, _SECONDS)
                wait_for_requests(nginx, wanted)
                pids[name] = process.pid
        info = running(files)
        if info is None:
            raise SystemExit(f"no relay runs: {files.relay_log.read_text()[-2000:]}")
        pids = {EMITTING: pids.pop(EMITTING), RELAY: info.pid, **pids}
        with told(f"all are idle for {options.seconds:g} s"):
            rows = idle(pids, options.seconds)
    events = {name: options.clients if name == EACH else options.events for name in pids}
    return {"seconds": options.seconds, "events": events, "processes": rows}


def tables(result: dict[str, Any]) -> list[Table]:
    heads = ["process", "events before", *next(iter(result["processes"].values()))]
    rows = [[name, result["events"][name], *row.values()] for name, row in result["processes"].items()]
    return [Table(f"Idle for {result['seconds']:g} s, all at the same time.", heads, rows)]


if __name__ == "__main__":
    run(__doc__, NUMBERS, measured, tables)
