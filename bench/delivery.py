"""One relay delivers a backlog to nginx, beside the client's own transports: speed, CPU, connections, memory.

Ours: so many events are appended while no relay runs; then a relay is started as `keepline relay`, with its
defaults, and timed until nginx has answered each and the ledger says so. Peers: a process with the client's
`http` transport, one with its `async_http`, and one with `http` that is given JSON, so that it serialises
nothing, as a relay doesn't. The same events to the same nginx, in turns; medians of the rounds.

CPU is user and system time of the process that delivers. That of the appends, in which keepline serialises,
is measured too: the relay and the appends together are all of keepline, as the peers' is all of theirs.

    python bench/delivery.py [--events 60000] [--peer-events 3000] [--rounds 5] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import feed
from children import Child, relay, status_when, transport
from figures import Numbers, Table, middle, ranged, run, told
from nginx import Nginx
from openlineage.client.serde import Serde

from keepline.outbox.status import OutboxStatus

NUMBERS: Numbers = {
    "events": (60_000, 400, "events that a relay delivers"),
    "peer-events": (3_000, 60, "events that a peer delivers"),
    "rounds": (5, 1, "rounds, in each of which all take their turn"),
}
PEERS = {
    "client http": ({"type": "http"}, ()),
    "client http, given JSON": ({"type": "http"}, ("--ready",)),
    "client async_http": ({"type": "async_http"}, ()),
}
OURS = "keepline relay"
BARS = {"events a second": 20, "aim": 30, "CPU": 15, "connections": 64, "memory": 60}
PEER = Path(__file__).with_name("peer.py")
_LOOK_EVERY = 0.02
_STILL_SECONDS = 60.0

Round = dict[str, float]


def emitted(
    folder: Path, many: int, configured: dict[str, Any], *words: str, nginx: Nginx
) -> tuple[Round, float, int]:
    """Have a process emit; what it tells, its CPU seconds in all, and how many connections it had at once."""
    most = 0
    with Child(folder, str(PEER), str(many), *words, transport=configured) as child:
        while not child.ended():
            most = max(most, nginx.look().active)
            time.sleep(_LOOK_EVERY)
        told_by_it = child.said()
    wanted = configured["type"] if configured["type"] != "keepline.Transport" else "composite"
    if told_by_it["kind"] != wanted:
        raise SystemExit(f"it used the transport {told_by_it['kind']}, not {wanted}")
    return told_by_it, child.cpu_in_all, most


def of_peer(folder: Path, nginx: Nginx, name: str, many: int) -> Round:
    configured, words = PEERS[name]
    before, server = nginx.look(), nginx.cpu()
    took, cpu, most = emitted(folder, many, {**configured, "url": nginx.url}, *words, nginx=nginx)
    after = nginx.look()
    if after.requests - before.requests != many:
        raise SystemExit(f"{name}: nginx has had {after.requests - before.requests} of {many} events")
    return {
        "events a second": many / took["seconds"],
        "CPU ms an event": 1000 * took["cpu"] / many,
        "CPU ms an event, with start-up": 1000 * cpu / many,
        "connections at once": most,
        "connections opened": after.opened - before.opened,
        "memory MB": took["memory"],
        "nginx CPU ms an event": 1000 * (nginx.cpu() - server) / many,
    }


def of_relay(folder: Path, nginx: Nginx, many: int) -> Round:
    outbox = folder / "outbox"
    appends, *_ = emitted(folder, many, transport(outbox, nginx.url), nginx=nginx)
    before, server = nginx.look(), nginx.cpu()
    began = time.perf_counter()
    with relay(outbox, nginx.url) as child:
        # The last look before the first delivery: what counts is never more than was done.
        first, used = began, 0.0
        had, most, moved = 0, 0, began
        while had < many:
            now, cpu, seen = time.perf_counter(), child.cpu(), nginx.look()
            if seen.requests == before.requests:
                first, used = now, cpu
            most = max(most, seen.active)
            if seen.requests - before.requests > had:
                had, moved = seen.requests - before.requests, now
            if child.ended() or now - moved > _STILL_SECONDS:
                raise child.fail(f"the relay has stopped at {had} of {many} events")
            time.sleep(_LOOK_EVERY)
        found = status_when(outbox, child, lambda status: status.settled)
        ended, cpu = time.perf_counter(), child.cpu()
        memory = child.memory()[1]
    after = nginx.look()
    check(found, after.requests - before.requests, many)
    return {
        "events a second": many / (ended - first),
        "events a second, with start-up": many / (ended - began),
        "CPU ms an event": 1000 * (cpu - used) / many,
        "CPU ms an event, with start-up": 1000 * child.cpu_in_all / many,
        "CPU ms an append": 1000 * appends["cpu"] / many,
        "connections at once": most,
        "connections opened": after.opened - before.opened,
        "memory MB": memory,
        "nginx CPU ms an event": 1000 * (nginx.cpu() - server) / many,
    }


def check(found: OutboxStatus, received: int, many: int) -> None:
    """A benchmark that didn't deliver everything, once, has measured nothing."""
    delivered = sum(one.delivered for one in found.destinations)
    if (received, delivered) != (many, many):
        raise SystemExit(f"{many} events: nginx has had {received}, the ledger says {delivered} delivered")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    rounds: dict[str, list[Round]] = {OURS: [], **{name: [] for name in PEERS}}
    events, peer_events = options.events, options.peer_events
    with Nginx() as nginx:
        for number in range(options.rounds):
            for name, taken in rounds.items():
                folder = options.folder / f"{number}-{name.replace(' ', '-')}"
                with told(f"round {number + 1} of {options.rounds}: {name}"):
                    if name == OURS:
                        taken.append(of_relay(folder, nginx, events))
                    else:
                        taken.append(of_peer(folder, nginx, name, peer_events))
    figures = {
        name: {figure: middle(one[figure] for one in taken) for figure in taken[0]}
        for name, taken in rounds.items()
    }
    return {
        "bytes": feed.size(),
        "peer bytes": len(Serde.to_json(next(feed.events(1)))),
        "events": events,
        "peer events": peer_events,
        "rounds": options.rounds,
        "figures": figures,
        "ratios": {name: ratios(rounds[OURS], rounds[name]) for name in PEERS},
        "bars": BARS,
    }


def ratios(ours: list[Round], theirs: list[Round]) -> dict[str, dict[str, float]]:
    """How many times better, round by round: what disturbs the machine then disturbs both."""
    pairs = list(zip(ours, theirs, strict=True))
    speed, cpu = "events a second", "CPU ms an event"
    return {
        "events a second": middle((one[speed] / other[speed] for one, other in pairs), 1),
        "CPU of the relay": middle((other[cpu] / one[cpu] for one, other in pairs), 1),
        "CPU of all of keepline": middle(
            (other[cpu] / (one[cpu] + one["CPU ms an append"]) for one, other in pairs), 1
        ),
    }


def tables(result: dict[str, Any]) -> list[Table]:
    rows = []
    for name, row in result["figures"].items():
        rows.append(
            [
                name,
                ranged(row["events a second"], ",.0f"),
                ranged(row["CPU ms an event"], ".3f"),
                f"{row['connections at once']['most']:.0f}",
                row["memory MB"]["most"],
                f"{row['nginx CPU ms an event']['median']:.3f}",
            ]
        )
    caption = (
        f"{result['events']:,} events by the relay, {result['peer events']:,} by each peer; "
        f"{result['rounds']} rounds, medians and ranges. An event has {result['bytes']:,} bytes as keepline "
        f"writes it, {result['peer bytes']:,} as the client does."
    )
    heads = ["", "events/s", "CPU ms/event", "connections", "memory MB", "nginx's CPU ms/event"]
    rates = [
        [name, *(ranged(one, ".1f", "x") for one in ratio.values())]
        for name, ratio in result["ratios"].items()
    ]
    ours = result["figures"][OURS]
    ratios = Table(
        f"How many times better. With its start-up the relay delivers "
        f"{ours['events a second, with start-up']['median']:,.0f} events/s at "
        f"{ours['CPU ms an event, with start-up']['median']:.3f} ms each; the append before it takes "
        f"{ours['CPU ms an append']['median']:.3f} ms of CPU.",
        ["than", "events/s", "CPU: the relay", "CPU: the relay and the appends"],
        rates,
    )
    return [Table(caption, heads, rows), ratios]


if __name__ == "__main__":
    run(__doc__, NUMBERS, measured, tables)
