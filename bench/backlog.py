"""What a backlog costs: a relay's memory with 1 to 1,000,000 events waiting, and appends beside so many.

The destination is out: nothing listens where it should be. For each size of the backlog a relay is started
afresh, takes everything in, finds its destination out, and is measured: memory now, and at most since its
start. Then appends to that outbox and to an empty one take turns, one each, in one process: first while no
relay runs, then while each of the two outboxes has one. At the end the destination comes back, and a relay
delivers some of the backlog.

    python bench/backlog.py [--events 1000000] [--appends 10000] [--rounds 5]
                            [--drain 20000] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import feed
from children import Child, relay, status_when, transport
from figures import Numbers, Table, centiles, middle, ranged, run, told
from nginx import Nginx, free_port

from keepline.config import Settings
from keepline.emission import Emission
from keepline.outbox.files import OutboxFiles

NUMBERS: Numbers = {
    "events": (1_000_000, 2_000, "events of the largest backlog"),
    "appends": (10_000, 400, "appends to each outbox in a round, timed"),
    "rounds": (5, 2, "rounds of appends, each with an empty outbox of its own"),
    "drain": (20_000, 500, "events delivered at the end"),
}
STEPS = (1, 10_000, 100_000, 1_000_000)
BARS = {"memory": 60, "append": 1.2}
SMALL_BODY = 1024
WARM_UP = 200
_HEAD_BYTES = 600  # Of a record and a row, beside the body; rather too many.
_SETTINGS: dict[str, Any] = {"max_bytes": 64 << 30, "backoff_max": 1.0}
_TAKEN_IN_SECONDS = 900.0
_FEW_SEGMENTS = 3


def body_size(folder: Path, events: int) -> int | None:
    """Of the events, bytes; none where the disk has room for whole ones, twice while they are taken in."""
    free = shutil.disk_usage(folder).free
    for size in (feed.size(), SMALL_BODY):
        if events * (size + _HEAD_BYTES) * 2 < free:
            return size if size == SMALL_BODY else None
    raise SystemExit(f"{free / 1e9:.1f} GB are free in {folder}: too few; use --events or --folder")


def emission(outbox: Path, url: str) -> Emission:
    return Emission.of(Settings.from_dict(transport(outbox, url, **_SETTINGS)))


def wait_until_taken_in(outbox: Path, child: Child, waiting: int) -> None:
    """Wait until the ledger has everything, and the relay knows that the destination is out."""
    deadline = time.monotonic() + _TAKEN_IN_SECONDS
    # A look at the status reads what hasn't been taken in: not before that is little.
    while sum(1 for _ in OutboxFiles(outbox).journal.iterdir()) > _FEW_SEGMENTS:
        if child.ended() or time.monotonic() > deadline:
            raise child.fail("the relay doesn't take the backlog in")
        time.sleep(0.1)
    found = status_when(
        outbox,
        child,
        lambda one: not one.waiting and all(at.last_answer_at is not None for at in one.destinations),
        pause=0.05,
    )
    if [one.pending for one in found.destinations] != [waiting]:
        raise child.fail(f"{waiting} events should wait: {found}")


def at_size(outbox: Path, url: str, waiting: int) -> dict[str, float]:
    """A relay that is started with so many events waiting: its memory, MB, and what it took to get there."""
    began = time.perf_counter()
    with relay(outbox, url, **_SETTINGS) as child:
        wait_until_taken_in(outbox, child, waiting)
        took = time.perf_counter() - began
        now, most = child.memory()
    return {
        "waiting": waiting,
        "memory MB": now,
        "at most MB": most,
        "seconds until taken in": round(took, 2),
    }


def beside(
    empty: Path, url: str, full: Emission, size: int | None, many: int, *, relays: bool
) -> dict[str, list[float]]:
    """Time appends to the full outbox and to an empty one: one each, either first by turns."""
    with ExitStack() as stack:
        other = emission(empty, url)
        if relays:
            # One event for this one too: then its relay knows as well that the destination is out.
            other.append(next(feed.ready(1, size)))
            wait_until_taken_in(empty, stack.enter_context(relay(empty, url, **_SETTINGS)), 1)
        times: dict[str, list[float]] = {"none": [], "full": []}
        turns = [(other, times["none"]), (full, times["full"])]
        for number, event in enumerate(feed.ready(many + WARM_UP, size)):
            for one, kept in turns if number % 2 else reversed(turns):
                began = time.perf_counter_ns()
                one.append(event)
                taken = time.perf_counter_ns() - began
                if number >= WARM_UP:
                    kept.append(taken / 1000)
    shutil.rmtree(empty)
    return times


def summed_up(rounds: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Of all rounds together; and the ratio, full to none, as the median and the range over the rounds."""
    each = [{name: centiles(times) for name, times in one.items()} for one in rounds]
    result: dict[str, Any] = {
        name: centiles([took for one in rounds for took in one[name]]) for name in ("none", "full")
    }
    result["ratio"] = {
        p: middle((one["full"][p] / one["none"][p] for one in each), 3) for p in ("p50", "p99")
    }
    return result


def drained(outbox: Path, port: int, many: int) -> dict[str, float]:
    """The destination is back: a relay's speed and memory with all the backlog behind it."""
    with Nginx(port) as nginx, relay(outbox, nginx.url, **_SETTINGS) as child:
        while not (began_with := nginx.look().requests):
            if child.ended():
                raise child.fail("the relay doesn't deliver")
            time.sleep(0.02)
        began = moved = time.perf_counter()
        had = began_with
        while had - began_with < many:
            time.sleep(0.02)
            seen = nginx.look().requests
            had, moved = (seen, time.perf_counter()) if seen > had else (had, moved)
            if child.ended() or time.perf_counter() - moved > 60:
                raise child.fail(f"the relay has stopped at {had} of {many} events")
        took = time.perf_counter() - began
        now, most = child.memory()
    return {"events a second": round((had - began_with) / took), "memory MB": now, "at most MB": most}


def measured(options: argparse.Namespace) -> dict[str, Any]:
    size, port = body_size(options.folder, options.events), free_port()
    url = f"http://127.0.0.1:{port}"
    full = options.folder / "full"
    appending, backlog = emission(full, url), feed.ready(options.events, size)
    steps, waiting = [], 0
    for step in sorted({*(one for one in STEPS if one < options.events), options.events}):
        with told(f"{step:,} events wait"):
            for _ in range(step - waiting):
                appending.append(next(backlog))
            waiting = step
            steps.append(at_size(full, url, waiting))
    appends = {}
    for label, relays in (("no relay runs", False), ("a relay runs for each", True)):
        with told(f"appends beside {options.events:,} events and none; {label}"), ExitStack() as stack:
            if relays:
                child = stack.enter_context(relay(full, url, **_SETTINGS))
                wait_until_taken_in(full, child, waiting)
            rounds = []
            for number in range(options.rounds):
                empty = options.folder / f"empty-{relays}-{number}"
                rounds.append(beside(empty, url, appending, size, options.appends, relays=relays))
                waiting += options.appends + WARM_UP
            appends[label] = summed_up(rounds)
    with told(f"the destination is back: {options.drain:,} events"):
        drain = drained(full, port, options.drain)
    return {
        "bytes": size or feed.size(),
        "events": options.events,
        "appends": options.appends,
        "rounds": options.rounds,
        "steps": steps,
        "append": appends,
        "drain": {"events": options.drain, **drain},
        "bars": BARS,
    }


def tables(result: dict[str, Any]) -> list[Table]:
    rows = [
        [f"{one['waiting']:,}", one["memory MB"], one["at most MB"], one["seconds until taken in"]]
        for one in result["steps"]
    ]
    drain = result["drain"]
    rows.append([f"the destination is back: {drain['events a second']:,} events/s", drain["memory MB"]])
    rows[-1] += [drain["at most MB"], ""]
    memory = Table(
        f"A relay with events of {result['bytes']:,} bytes waiting for a destination that is out.",
        ["events waiting", "memory MB", "at most MB", "s until taken in"],
        rows,
    )
    rows = []
    for label, found in result["append"].items():
        for name, waiting in (("none", 0), ("full", result["events"])):
            rows.append([f"{label}: {waiting:,}", *found[name].values()])
        ratios = [ranged(found["ratio"][p], ".2f") for p in ("p50", "p99")]
        rows.append([f"{label}: ratio", *ratios, "", ""])
    caption = (
        f"Appends beside so many events waiting, microseconds; {result['rounds']} rounds of "
        f"{result['appends']:,} appends to each outbox; the ratio is the median of the rounds."
    )
    return [memory, Table(caption, ["events waiting", "p50", "p99", "p99.9", "worst"], rows)]


if __name__ == "__main__":
    run(__doc__, NUMBERS, measured, tables)
