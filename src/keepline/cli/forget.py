"""``keepline forget``: drop a destination that is out of the configuration."""

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
from keepline.errors import RelayError
from keepline.outbox.commands import Forget
from keepline.outbox.destinations import known_destinations


@click.command(short_help="Drop a destination that is configured no more.")
@outbox_option
@click.argument("name")
@click.option(
    "--timeout", default=60.0, show_default=True, type=click.FloatRange(min=0), help="Longest wait, seconds."
)
@yes_option
@json_option
@plain_errors
def forget(outbox: str | None, name: str, timeout: float, yes: bool, as_json: bool) -> None:
    """Drop a destination that is out of the configuration: what waits for it, its dead letters, its name."""
    files, settings = outbox_and_settings(outbox)
    known = known_destinations(files)
    if name not in known:
        there = ", ".join(one.name for one in known.values() if not one.active) or "none"
        raise RelayError(f"there is no destination `{name}`; out of the configuration: {there}")
    one = known[name]
    if settings is not None and name in {leg.name for leg in settings.legs}:
        raise RelayError(
            f"`{name}` is in the configuration; take it out, then have the relay take that up with "
            "`keepline resume`"
        )
    if one.active:
        raise RelayError(f"the last relay still had `{name}`; run `keepline resume` first")
    lost = f"{one.pending} pending and {one.dead} dead"
    confirm(
        f"this drops `{name}` for good, with {lost}, and the history of what it was given; go on", yes=yes
    )
    wait_applied(files, settings, give(files, settings, [Forget(one.ledger, name)]), timeout)
    if name in known_destinations(files):
        raise RelayError(f"`{name}` is in the relay's configuration again, and was not forgotten")
    if as_json:
        click.echo(json.dumps({"forgotten": name, "pending": one.pending, "dead": one.dead}))
    else:
        click.echo(f"forgot {name}, with {lost}")
