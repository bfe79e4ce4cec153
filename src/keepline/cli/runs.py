"""``keepline runs``: the runs that the outbox knows of, and those that have not ended."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import click

from keepline.cli.common import age, find_outbox, json_option, outbox_option, plain_errors
from keepline.cli.printing import job, plain, print_table
from keepline.cli.waiting import looking
from keepline.cli.when import FORMS, When, clock
from keepline.outbox.runs import RunSummary, list_runs


@click.command(short_help="Show runs, and those that are open.")
@outbox_option
@click.option(
    "--open", "only_open", is_flag=True, help="Only runs with a START and no COMPLETE, FAIL or ABORT."
)
@click.option("--job", "wanted", metavar="JOB", help="Only of this job: its name, or namespace/name.")
@click.option("--since", type=When(), help=f"Only runs with an event appended since: {FORMS}.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(min=1), help="Most to show.")
@json_option
@plain_errors
def runs(
    outbox: str | None, only_open: bool, wanted: str | None, since: float | None, limit: int, as_json: bool
) -> None:
    """Show runs, those with the latest event first; with --open, the oldest first.

    The outbox knows of a run what was appended within `retention`.
    """
    files = find_outbox(outbox)
    with looking("looking at all events"):
        found = list_runs(files, job=wanted, since=since, only_open=only_open, limit=limit)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    if found.runs:
        titles = ("run", "job", "events", "first", "last", "last type", "age")
        print_table(titles, map(_row, found.runs), right=("events", "age"))
    else:
        click.echo("no open runs" if only_open else "no runs")
    if found.total > len(found.runs):
        click.echo(f"and {found.total - len(found.runs)} more (--limit)")
    if found.known_since is not None:
        click.echo(f"the outbox knows events since {clock(found.known_since)}")


def _row(one: RunSummary) -> tuple[str, ...]:
    return (
        plain(one.run),
        job(one.job_namespace, one.job_name),
        str(one.events),
        clock(one.first_at),
        clock(one.last_at),
        plain(one.last_type),
        age(max(time.time() - one.first_at, 0.0)),
    )
