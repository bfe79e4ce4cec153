"""``keepline dead replay``: deliver dead letters again."""

from __future__ import annotations

import click

from keepline.cli.common import (
    json_option,
    outbox_and_settings,
    outbox_option,
    plain_errors,
    yes_option,
)
from keepline.cli.letters import all_option, chosen_of, filters, ids_argument, selection_of
from keepline.cli.replaying import Manner, replay_chosen
from keepline.outbox.destinations import known_destinations


@click.command()
@outbox_option
@ids_argument
@all_option
@filters
@click.option("--dry-run", is_flag=True, help="Say what would be replayed, and do nothing.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it is delivered.")
@click.option(
    "--timeout", default=300.0, show_default=True, type=click.FloatRange(min=0), help="Longest wait, seconds."
)
@yes_option
@json_option
@plain_errors
def replay(
    outbox: str | None,
    ids: tuple[str, ...],
    everything: bool,
    destination: str | None,
    job: str | None,
    run: str | None,
    since: float | None,
    until: float | None,
    dry_run: bool,
    wait: bool,
    timeout: float,
    yes: bool,
    as_json: bool,
) -> None:
    """Deliver dead letters again.

    Exits with status 3 when something still waits at the end, and 4 when something was refused again.
    """
    files, settings = outbox_and_settings(outbox)
    chosen = chosen_of(files, ids, everything, destination, selection_of(job, run, since, until))
    known = known_destinations(files)
    for one in chosen:
        if not known[one.destination].active:
            raise click.ClickException(
                f"nothing is delivered to `{one.destination}` any more: it is out of the configuration; name "
                "it there again, or say with --destination which of the others is meant"
            )
    manner = Manner(dry_run=dry_run, yes=yes, wait=wait, timeout=timeout, as_json=as_json)
    replay_chosen(files, settings, chosen, manner)
