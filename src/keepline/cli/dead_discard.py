"""``keepline dead discard``: let go of dead letters."""

from __future__ import annotations

import json

import click

from keepline.cli.asking import give, wait_applied
from keepline.cli.common import (
    confirm,
    json_option,
    outbox_and_settings,
    outbox_option,
    plain_errors,
    yes_option,
)
from keepline.cli.letters import all_option, chosen_of, filters, ids_argument, selection_of
from keepline.cli.printing import several
from keepline.outbox.commands import Discard

_EVENTS_EACH = 500


@click.command()
@outbox_option
@ids_argument
@all_option
@filters
@click.option(
    "--timeout", default=60.0, show_default=True, type=click.FloatRange(min=0), help="Longest wait, seconds."
)
@yes_option
@json_option
@plain_errors
def discard(
    outbox: str | None,
    ids: tuple[str, ...],
    everything: bool,
    destination: str | None,
    job: str | None,
    run: str | None,
    since: float | None,
    until: float | None,
    timeout: float,
    yes: bool,
    as_json: bool,
) -> None:
    """Let go of dead letters. They are counted as discarded, and deleted with what else is old."""
    files, settings = outbox_and_settings(outbox)
    chosen = chosen_of(files, ids, everything, destination, selection_of(job, run, since, until))
    counts = {one.destination: len(one.events) for one in chosen}
    told = ", ".join(f"{count} of {name}" for name, count in counts.items())
    if chosen:
        confirm(
            f"this lets go of {several(sum(counts.values()), 'dead letter')} for good ({told}); go on",
            yes=yes,
        )
    commands = (
        Discard(one.ledger, one.destination, tuple(one.events[begin : begin + _EVENTS_EACH]))
        for one in chosen
        for begin in range(0, len(one.events), _EVENTS_EACH)
    )
    wait_applied(files, settings, give(files, settings, commands) if chosen else None, timeout)
    if as_json:
        click.echo(json.dumps({"discarded": counts}, indent=2))
    else:
        click.echo(f"discarded {told}" if chosen else "nothing to discard")
