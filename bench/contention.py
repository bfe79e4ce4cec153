"""Appends by several processes at once: keepline's journal, beside SQLite that takes the same bytes.

SQLite as an outbox without a journal would use it: apsw, WAL, `synchronous=NORMAL`, one transaction an event,
waiting for others' locks for as long as it takes. Both are as durable: against the death of any process. They
take turns; in each turn all processes start at once and append at a pace at which they needn't wait for the
processors, then in a tight loop, in which they do. Only the append is timed, not the making of the event.

    python bench/contention.py [--appends 1000] [--pace 0.004] [--rounds 3] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import feed
from children import forks, transport
from figures import Numbers, Table, centiles, run, told

from keepline.config import Settings
from keepline.emission import Emission
from keepline.event import Event

NUMBERS: Numbers = {
    "appends": (1_000, 30, "appends of each process in a turn"),
    "pace": (0.004, 0.002, "seconds between two appends of a process, where they are paced"),
    "rounds": (3, 1, "turns of each"),
}
PROCESSES = (1, 4, 16)
OURS, PEER = "keepline", "SQLite"
_BUSY_MS = 120_000

Append = Callable[[Event], object]


def to_journal(folder: Path) -> Append:
    settings = Settings.from_dict(transport(folder / "outbox", "http://127.0.0.1:1"))
    return Emission.of(settings).append


def to_sqlite(folder: Path) -> Append:
    connection = apsw.Connection(str(folder / "outbox.db"))
    connection.set_busy_timeout(_BUSY_MS)
    connection.pragma("synchronous", "normal")

    def append(event: Event) -> None:
        connection.execute("INSERT INTO event (run_key, body) VALUES (?, ?)", (event.run_key, event.body))

    return append


def make_sqlite(folder: Path) -> None:
    """Make the database: SQLite turns on WAL for one process, and refuses others that try at that moment."""
    connection = apsw.Connection(str(folder / "outbox.db"))
    connection.pragma("journal_mode", "wal")
    connection.execute("CREATE TABLE event (id INTEGER PRIMARY KEY, run_key TEXT, body BLOB)")
    connection.close()


KINDS = {OURS: to_journal, PEER: to_sqlite}


def at_once(folder: Path, kind: str, processes: int, many: int, pace: float) -> dict[str, Any]:
    """Processes that append at the same time: microseconds of each append, and how long all took."""
    folder.mkdir(parents=True)
    if kind == PEER:
        make_sqlite(folder)
    ready, ready_end = os.pipe()
    waiting, starting = os.pipe()

    def append_all(number: int) -> None:
        os.close(starting)
        append = KINDS[kind](folder)
        first, *events = feed.ready(many + 1)
        append(first)
        times = []
        os.write(ready_end, b".")
        # When all have, whether they are ready or dead, the others' start is no longer waited for.
        os.close(ready_end)
        os.read(waiting, 1)
        # So that they don't keep step with one another.
        turn = time.monotonic() + pace * number / processes
        for event in events:
            if pace:
                turn += pace
                time.sleep(max(turn - time.monotonic(), 0.0))
            began = time.perf_counter_ns()
            append(event)
            times.append((time.perf_counter_ns() - began) / 1000)
        (folder / f"{number}.json").write_text(json.dumps(times))

    with forks(append_all, processes):
        os.close(waiting)
        os.close(ready_end)
        there = 0
        while there < processes and (said := os.read(ready, processes)):
            there += len(said)
        began = time.perf_counter()
        os.close(starting)
    took = time.perf_counter() - began
    os.close(ready)
    times = [
        one for number in range(processes) for one in json.loads((folder / f"{number}.json").read_text())
    ]
    return {"times": times, "seconds": took}


def measured(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for label, pace in (("paced", options.pace), ("tight loop", 0.0)):
        found[label] = {}
        for processes in PROCESSES:
            taken: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
            with told(f"{processes} processes, {label}"):
                for number in range(options.rounds):
                    for kind, each in taken.items():
                        folder = options.folder / f"{label}-{processes}-{number}-{kind}"
                        each.append(at_once(folder, kind, processes, options.appends, pace))
            found[label][str(processes)] = compared(taken, processes * options.appends)
    return {
        "bytes": feed.size(),
        "appends": options.appends,
        "rounds": options.rounds,
        "pace": options.pace,
        "appending": found,
    }


def compared(taken: dict[str, list[dict[str, Any]]], many: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for kind, each in taken.items():
        result[kind] = centiles([took for one in each for took in one["times"]])
        result[kind]["appends a second"] = round(many * len(each) / sum(one["seconds"] for one in each))
    ours, theirs = result[OURS], result[PEER]
    result["ratio"] = {key: round(theirs[key] / ours[key], 1) for key in ("p50", "p99", "worst")}
    return result


def tables(result: dict[str, Any]) -> list[Table]:
    made = []
    for label, sizes in result["appending"].items():
        rows = []
        for processes, found in sizes.items():
            for kind in KINDS:
                rows.append(
                    [f"{processes} at once: {kind}", *(f"{figure:,}" for figure in found[kind].values())]
                )
            ratios = [f"{found['ratio'][p]}x" for p in ("p50", "p99")]
            rows.append([f"{processes} at once: ratio", *ratios, "", "", ""])
        how = f"one every {1000 * result['pace']:g} ms" if label == "paced" else "in a tight loop"
        caption = (
            f"Appends of {result['bytes']:,} bytes, each process {how}, microseconds; "
            f"{result['rounds']} turns of {result['appends']:,} appends of each process."
        )
        made.append(Table(caption, ["processes", "p50", "p99", "p99.9", "worst", "appends/s"], rows))
    return made


if __name__ == "__main__":
    run(__doc__, NUMBERS, measured, tables)
