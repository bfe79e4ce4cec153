"""``keepline trace``: did a run's lineage arrive, and if not, why."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict

import click

from keepline.cli.asking import EXIT_DEAD, EXIT_WAITS, how_to_start, runs
from keepline.cli.common import age, json_option, locate, outbox_option, plain_errors, settings_for
from keepline.cli.fates import told
from keepline.cli.printing import job, plain
from keepline.cli.waiting import looking
from keepline.cli.when import clock
from keepline.config import Settings
from keepline.outbox.tracing import Trace, TracedEvent
from keepline.outbox.tracing import trace as ask


@click.command(short_help="Show what became of a run's events.")
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
    if run_id is None and wanted is None:
        raise click.UsageError("give a RUN_ID or --job")
    if run_id is not None and wanted is not None:
        raise click.UsageError("give only one of RUN_ID and --job")
    files, settings = locate(outbox)
    with looking("looking at all events"):
        found = ask(files, run=run_id, job=wanted, limit=limit)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    elif found.runs:
        if settings is None and _needs_settings(found):
            settings = _settings(outbox)
        for line in _lines(found, settings):
            click.echo(line)
        if _status(found) == EXIT_WAITS and not runs(files):
            click.echo(f"no relay runs; {how_to_start(settings)}")
    if not found.runs:
        what = f"run {plain(run_id)}" if run_id is not None else f"job {plain(wanted or '')}"
        since = "no event at all" if found.known_since is None else f"events since {clock(found.known_since)}"
        if not as_json:
            click.echo(f"nothing is known of {what}; the outbox knows {since}", err=True)
    raise SystemExit(_status(found))


def _needs_settings(found: Trace) -> bool:
    return any(
        event.event is None or any(one.state in ("none", "pending") for one in event.deliveries)
        for run in found.runs
        for event in run.events
    )


def _settings(outbox: str | None) -> Settings | None:
    # They only make the answer more exact.
    with suppress(Exception):
        return settings_for(outbox)
    return None


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


def _lines(found: Trace, settings: Settings | None) -> Iterator[str]:
    for number, run in enumerate(found.runs):
        if number:
            yield ""
        yield f"run {plain(run.run)}  job {job(run.job_namespace, run.job_name)}"
        for event in run.events:
            name = "in the journal" if event.event is None else f"event {event.event}"
            happened = f" {plain(event.event_time)}," if event.event_time else ""
            kind = plain(event.event_type) or "-"
            yield f"  {kind:<9}{happened} appended {clock(event.appended_at)}, {name}"
            yield from _deliveries(event, settings)
    since = clock(found.known_since)
    yield f"the outbox knows events since {since}"


def _deliveries(event: TracedEvent, settings: Settings | None) -> Iterator[str]:
    if event.event is None:
        waited = age(max(time.time() - event.appended_at, 0.0))
        yield f"    pending: no relay has taken it in yet, for {waited}"
    width = max((len(one.destination) for one in event.deliveries), default=0)
    for one in event.deliveries:
        yield f"    {plain(one.destination):<{width}}  {told(one, event.deliveries, settings)}"
