"""What ``keepline replay`` and ``keepline dead replay`` have in common."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import click

from keepline.cli.asking import EXIT_DEAD, EXIT_WAITS, RelayGone, give, see_that_one_may_come, wait_applied
from keepline.cli.common import confirm
from keepline.cli.printing import job, plain, print_table, several
from keepline.cli.waiting import progress, wait_until
from keepline.cli.when import clock
from keepline.config import Settings
from keepline.outbox.commands import Replay
from keepline.outbox.destinations import known_destinations
from keepline.outbox.files import OutboxFiles
from keepline.outbox.following import ends_of, pending_of
from keepline.outbox.selection import Chosen

_EVENTS_EACH = 500


@dataclass(frozen=True)
class Manner:
    """How a replay is carried out.

    Args:
        dry_run: only say what it would do.
        yes: don't ask.
        wait: until all is delivered.
        timeout: longest wait, seconds.
        as_json: one document instead of words.
    """

    dry_run: bool
    yes: bool
    wait: bool
    timeout: float
    as_json: bool


def replay_chosen(
    files: OutboxFiles, settings: Settings | None, chosen: Iterable[Chosen], manner: Manner
) -> None:
    """Replay what was chosen, and exit with the status that tells what came of it.

    Args:
        files: the outbox.
        settings: as configured here.
        chosen: what, for each destination.
        manner: how.

    Raises:
        KeeplineError: it can't be done.
        ClickException: it would set runs back, and nobody is there to be asked.
        Abort: somebody was asked and has said no.
    """
    wanted = [one for one in chosen if one.events]
    if not manner.as_json:
        _show(wanted, manner)
    if not wanted or manner.dry_run:
        _say(files, manner, wanted, {})
        return
    see_that_one_may_come(files, settings)
    _warn(wanted, yes=manner.yes)
    if settings is not None and settings.failover and len(settings.legs) > 1:
        click.echo("the destinations stand in for one another: to the first that accepts", err=True)
    ends = _carry_out(files, settings, wanted, manner)
    _say(files, manner, wanted, ends)
    if any(one.get("pending") for one in ends.values()):
        raise SystemExit(EXIT_WAITS)
    if any(one.get("dead") for one in ends.values()):
        raise SystemExit(EXIT_DEAD)


def _carry_out(
    files: OutboxFiles, settings: Settings | None, wanted: list[Chosen], manner: Manner
) -> dict[str, dict[str, int]]:
    """Give the commands, and wait if that is wanted; what came of it, by destination and state."""
    total = sum(len(one.events) for one in wanted)
    deadline = time.monotonic() + manner.timeout
    with progress() as shown:
        task = shown.add_task("asking", total=total)
        asked = give(files, settings, _commands(wanted, lambda count: shown.advance(task, count)))
        if not manner.wait:
            return {}
        wait_applied(files, settings, asked, manner.timeout)
        shown.reset(task, description="delivering", total=total)

        def done() -> bool:
            waiting = sum(
                pending_of(files, name, one.events)
                for one in wanted
                for name in _takers(settings, one.destination)
            )
            shown.update(task, completed=total - waiting)
            return not waiting

        wait_until(files, done, max(deadline - time.monotonic(), 0.0), unless=RelayGone(files))
    return {one.destination: _ends(files, settings, one) for one in wanted}


def _takers(settings: Settings | None, destination: str) -> list[str]:
    """Those that may take what is for a destination: all, where they stand in for one another."""
    names = [leg.name for leg in settings.legs] if settings is not None and settings.failover else []
    return names if destination in names else [destination]


def _ends(files: OutboxFiles, settings: Settings | None, one: Chosen) -> dict[str, int]:
    found: Counter[str] = Counter()
    for name in _takers(settings, one.destination):
        found += ends_of(files, name, one.events)
    del found["none"]
    found["none"] = len(one.events) - found.total()
    return dict(+found)


def _commands(wanted: list[Chosen], given: Callable[[int], None]) -> Iterator[Replay]:
    for one in wanted:
        for begin in range(0, len(one.events), _EVENTS_EACH):
            events = tuple(one.events[begin : begin + _EVENTS_EACH])
            yield Replay(one.ledger, one.destination, events)
            given(len(events))


def _warn(wanted: list[Chosen], *, yes: bool) -> None:
    for one in wanted:
        if not one.set_back:
            continue
        shown = ", ".join(f"{each.run} ({job(each.job_namespace, each.job_name)})" for each in one.examples)
        more = ", ..." if one.set_back > len(one.examples) else ""
        click.echo(
            f"warning: at {one.destination}, {several(one.set_back, 'run')} would begin again after "
            f"{'its' if one.set_back == 1 else 'their'} end was delivered: {shown}{more}; receivers such as "
            "Marquez would show them as running. Replay the whole run instead (`keepline replay --run`)",
            err=True,
        )
    count = sum(one.set_back for one in wanted)
    if count:
        confirm(f"this would set {several(count, 'run')} back; replay all the same", yes=yes)


def _show(wanted: list[Chosen], manner: Manner) -> None:
    if not wanted:
        click.echo("nothing to replay")
        return
    rows = [
        (one.destination, str(len(one.events)), str(one.runs), clock(one.first_at), clock(one.last_at))
        for one in wanted
    ]
    titles = ("destination", "events", "runs", "first appended", "last appended")
    print_table(titles, rows, right=("events", "runs"))
    if manner.dry_run:
        for one in wanted:
            if one.set_back:
                click.echo(f"it would set {several(one.set_back, 'run')} back at {one.destination}")
        click.echo("nothing was replayed")


def _say(files: OutboxFiles, manner: Manner, wanted: list[Chosen], ends: dict[str, dict[str, int]]) -> None:
    if manner.as_json:
        click.echo(json.dumps(_document(manner, wanted, ends), indent=2))
        return
    if not wanted or manner.dry_run:
        return
    if not ends:
        click.echo("asked; the relay delivers it in its turn (`keepline status`)")
    known = known_destinations(files) if ends else {}
    for name, states in ends.items():
        told = ", ".join(
            f"{count} {state if state != 'none' else 'no more known'}" for state, count in states.items()
        )
        why = known[name].why if "pending" in states and name in known else ""
        told += f"; it is {plain(why)}" if why else ""
        told += "; see `keepline dead list`" if "dead" in states else ""
        click.echo(f"{name}: {told}")


def _document(manner: Manner, wanted: list[Chosen], ends: dict[str, dict[str, int]]) -> dict[str, Any]:
    return {
        "dry_run": manner.dry_run,
        "destinations": [
            {
                "name": one.destination,
                "events": len(one.events),
                "runs": one.runs,
                "first_at": one.first_at,
                "last_at": one.last_at,
                "set_back": one.set_back,
                "ends": ends.get(one.destination),
            }
            for one in wanted
        ],
    }
