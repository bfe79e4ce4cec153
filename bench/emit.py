"""What an emit costs the process that emits: keepline's and that of the client's http transport.

Side by side, in one process: the client's `http` transport, which posts to nginx on loopback; keepline's
transport that only appends (`relay: external`); and keepline's transport whose relay delivers to the same
nginx meanwhile (`relay: auto`). They take turns in two ways: after many emits each, so that each works with
warm caches; and after every single one, so that each finds caches that the others have filled.

Then sixteen processes at once: at a pace at which they needn't wait for the processors, and in a tight loop,
in which they do. There, `cpu` tells what an emit itself took, without the time in which others ran.

Times are microseconds an emit. Ratios hold on other machines, absolute times don't.

    python bench/emit.py [--rounds 5000] [--processes 16] [--events 2000] [--pace 0.008]
                         [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from children import forks
from figures import Numbers, Table, centiles, run, told
from nginx import Nginx
from openlineage.client.constants import __version__ as client_version
from openlineage.client.serde import Serde
from openlineage.client.transport.http import HttpConfig, HttpTransport
from serialise import events

from keepline.outbox.files import OutboxFiles
from keepline.outbox.status import read_status
from keepline.relay.ending import stop
from keepline.transport import Transport, TransportConfig

NUMBERS: Numbers = {
    "rounds": (5_000, 250, "emits of each, side by side"),
    "processes": (16, 2, "processes at once"),
    "events": (2_000, 30, "emits of each process"),
    "pace": (0.008, 0.002, "seconds between them, if paced"),
}
EVENT = events()["task start"]

Emit = Callable[[Any], object]


def keepline(folder: Path, url: str, relay: str) -> Transport:
    legs = {"local": {"type": "http", "url": url}}
    return Transport(TransportConfig.from_dict({"outbox": str(folder), "relay": relay, "transports": legs}))


def side_by_side(folder: Path, url: str, rounds: int, block: int) -> dict[str, Any]:
    """As many emits of each as there are rounds, taking turns after each block."""
    emits: dict[str, Emit] = {
        "client http": HttpTransport(HttpConfig.from_dict({"url": url})).emit,
        "keepline external": keepline(folder / "external", url, "external").emit,
        "keepline auto": keepline(folder / "auto", url, "auto").emit,
    }
    times: dict[str, list[float]] = {name: [] for name in emits}
    for emit in emits.values():
        for _ in range(200):
            emit(EVENT)
    # Each of keepline's after the client's, so that neither warms the caches for the other.
    turns = ("client http", "keepline external", "client http", "keepline auto")
    for _ in range(rounds // block):
        for name in turns:
            emit, kept = emits[name], times[name]
            for _ in range(block):
                began = time.perf_counter_ns()
                emit(EVENT)
                kept.append((time.perf_counter_ns() - began) / 1000)
    appended = 200 + rounds // block * block
    delivered = all_delivered(folder / "auto", appended)
    result: dict[str, Any] = {name: centiles(taken) for name, taken in times.items()}
    for name in emits:
        result[name]["ratio"] = {
            p: round(result["client http"][p] / result[name][p], 1) for p in ("p50", "p99")
        }
    return {"emits": result, "delivered": delivered, "appended": appended}


def wait_for_delivery(outbox: Path) -> int:
    """Let the relay deliver everything, end it, and tell how much it delivered."""
    files = OutboxFiles(outbox)
    deadline = time.monotonic() + 120
    while not (found := read_status(files)).settled and time.monotonic() < deadline:
        time.sleep(0.1)
    stop(files, 30)
    return sum(one.delivered for one in found.destinations)


def all_delivered(outbox: Path, appended: int) -> int:
    delivered = wait_for_delivery(outbox)
    if delivered != appended:
        raise SystemExit(f"the relay has delivered {delivered} of {appended} events")
    return delivered


def at_once(
    folder: Path, url: str, relay: str, processes: int, many: int, pace: float | None
) -> dict[str, Any]:
    """Processes that emit at the same time, each all its events, one every `pace` seconds if given."""
    waiting, starting = os.pipe()

    def emit_all(number: int) -> None:
        os.close(starting)
        transport = keepline(folder / "outbox", url, relay)
        transport.emit(EVENT)
        wall, cpu = [], []
        os.read(waiting, 1)
        # So that they don't keep step with one another.
        turn = time.monotonic() + (pace or 0.0) * number / processes
        for _ in range(many):
            if pace:
                turn += pace
                time.sleep(max(turn - time.monotonic(), 0.0))
            before, began = time.thread_time_ns(), time.perf_counter_ns()
            transport.emit(EVENT)
            taken, spent = time.perf_counter_ns() - began, time.thread_time_ns() - before
            wall.append(taken / 1000)
            cpu.append(spent / 1000)
        (folder / f"{number}.json").write_text(json.dumps({"wall": wall, "cpu": cpu}))

    folder.mkdir()
    with forks(emit_all, processes):
        os.close(waiting)
        time.sleep(1.0)
        began = time.monotonic()
        os.close(starting)
    took = time.monotonic() - began
    times: dict[str, list[float]] = {"wall": [], "cpu": []}
    for number in range(processes):
        for kind, values in json.loads((folder / f"{number}.json").read_text()).items():
            times[kind] += values
    result: dict[str, Any] = {kind: centiles(values) for kind, values in times.items()}
    result["events a second"] = round(processes * many / took)
    result["appended"] = processes * (many + 1)
    if relay == "auto":
        result["delivered"] = all_delivered(folder / "outbox", result["appended"])
    return result


def measured(options: argparse.Namespace) -> dict[str, Any]:
    folder = options.folder
    with Nginx() as nginx, ExitStack() as stack:
        result: dict[str, Any] = {
            "python": platform.python_version(),
            "openlineage-python": client_version,
            "processors": os.cpu_count(),
            "bytes": len(Serde.to_json(EVENT)),
            "rounds": options.rounds,
            "side by side": {},
            "processes": options.processes,
            "events": options.events,
            "pace": options.pace,
            "at once": {},
        }
        for label, block in (("turns of 250 emits", 250), ("turns of one emit", 1)):
            outboxes = folder / str(block)
            stack.callback(stop, OutboxFiles(outboxes / "auto"), 30)
            with told(f"side by side, {label}"):
                found = side_by_side(outboxes, nginx.url, options.rounds, block)
                result["side by side"][label] = found
        for label, relay, pace in (
            ("paced, relay: external", "external", options.pace),
            ("paced, relay: auto", "auto", options.pace),
            ("tight loop, relay: external", "external", None),
        ):
            outboxes = folder / label.replace(" ", "-")
            stack.callback(stop, OutboxFiles(outboxes / "outbox"), 30)
            with told(f"{options.processes} processes at once, {label}"):
                found = at_once(outboxes, nginx.url, relay, options.processes, options.events, pace)
                result["at once"][label] = found
    return result


def tables(result: dict[str, Any]) -> list[Table]:
    made = []
    figures = ("p50", "p99", "p99.9", "worst")
    for label, side in result["side by side"].items():
        rows = [
            [name, *(row[p] for p in figures), *(f"{row['ratio'][p]}x" for p in ("p50", "p99"))]
            for name, row in side["emits"].items()
        ]
        caption = f"Side by side in {label}: {result['rounds']:,} emits each, microseconds."
        made.append(Table(caption, ["", *figures, "http/p50", "http/p99"], rows))
    rows = []
    for name, row in result["at once"].items():
        rows.append([name, *(row["wall"][p] for p in figures), f"{row['events a second']:,}"])
        rows.append([f"{name}: CPU", *(row["cpu"][p] for p in figures), ""])
    caption = (
        f"{result['processes']} processes at once, {result['events']:,} emits of each, microseconds; "
        f"paced: one every {1000 * result['pace']:g} ms."
    )
    return [*made, Table(caption, ["", *figures, "events/s"], rows)]


if __name__ == "__main__":
    run(__doc__, NUMBERS, measured, tables)
