"""``keepline trace``: did a run's lineage arrive, and if not, why."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict

import click

from keepline.cli.asking import EXIT_DEAD, EXIT_WAITS, runs
from keepline.cli.common import age, find_outbox, json_option, outbox_option, plain_errors
from keepline.cli.printing import job, plain, several
from keepline.cli.waiting import looking
from keepline.cli.when import clock
from keepline.outbox.tracing import Trace, TracedDelivery, TracedEvent
from keepline.outbox.tracing import trace as ask

_ANSWER_COLUMNS = 100


@click.command()
@outbox_option
@click.argument("run_id", required=False)
@click.option(
    "--job", "wanted", metavar="JOB", help="The latest runs of this job: its name, or namespace/name."
)
@click.option(
    "--limit", default=1, show_default=True, type=click.IntRange(min=1), help="With --job, most runs."
)
@json_option
@plain_errors
def trace(outbox: str | None, run_id: str | None, wanted: str | None, limit: int, as_json: bool) -> None:
    """Show what became of each event of a run, at each destination.

    Exits with status 0 when all of it is delivered, 1 when nothing is known of that run, 3 when something
    still waits, and 4 when something will not arrive: it is dead, was discarded, or is for no destination.
    """
    if (run_id is None) == (wanted is None):
        raise click.UsageError("give a RUN_ID or --job")
    files = find_outbox(outbox)
    with looking("looking at all events"):
        found = ask(files, run=run_id, job=wanted, limit=limit)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    elif found.runs:
        for line in _lines(found):
            click.echo(line)
        if _status(found) == EXIT_WAITS and not runs(files):
            click.echo("no relay runs; `keepline flush` starts one")
    if not found.runs:
        what = f"run {plain(run_id)}" if run_id is not None else f"job {plain(wanted or '')}"
        since = "no event at all" if found.known_since is None else f"events since {clock(found.known_since)}"
        if not as_json:
            click.echo(f"nothing is known of {what}; the outbox knows {since}", err=True)
    raise SystemExit(_status(found))


def _status(found: Trace) -> int:
    if not found.runs:
        return 1
    waits = False
    for event in (event for run in found.runs for event in run.events):
        states = {one.state for one in event.deliveries}
        if event.event is not None and (states <= {"none"} or states & {"dead", "discarded"}):
            return EXIT_DEAD
        waits = waits or event.event is None or "pending" in states
    return EXIT_WAITS if waits else 0


def _lines(found: Trace) -> Iterator[str]:
    for number, run in enumerate(found.runs):
        if number:
            yield ""
        yield f"run {plain(run.run)}  job {job(run.job_namespace, run.job_name)}"
        for event in run.events:
            name = "in the journal" if event.event is None else f"event {event.event}"
            happened = f" {plain(event.event_time)}," if event.event_time else ""
            kind = plain(event.event_type) or "-"
            yield f"  {kind:<9}{happened} appended {clock(event.appended_at)}, {name}"
            yield from _deliveries(event)
    since = clock(found.known_since)
    yield f"the outbox knows events since {since}"


def _deliveries(event: TracedEvent) -> Iterator[str]:
    if event.event is None:
        waited = age(max(time.time() - event.appended_at, 0.0))
        yield f"    pending: no relay has taken it in yet, for {waited}"
    width = max((len(one.destination) for one in event.deliveries), default=0)
    for one in event.deliveries:
        yield f"    {plain(one.destination):<{width}}  {_told(one)}"


def _told(one: TracedDelivery) -> str:
    answer = plain((one.answer or (f"HTTP {one.status}" if one.status else "")).partition("\n")[0])
    answer = answer[:_ANSWER_COLUMNS]
    tries = several(one.attempts, "try").replace("trys", "tries")
    if one.state == "none":
        return "not for it: it wasn't configured then, or another destination took it"
    if one.state == "pending":
        why = plain(one.why.partition("\n")[0])[:_ANSWER_COLUMNS] or "its turn has not come yet"
        return f"pending: {why}" + (f"; {tries}, last answer {answer}" if one.attempts else "")
    return f"{one.state} {clock(one.ended_at)}, {tries}" + (f", {answer}" if answer else "")
