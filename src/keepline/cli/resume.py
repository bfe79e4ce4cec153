"""``keepline resume``: try a destination that is out or paused at once."""

from __future__ import annotations

import json

import click

from keepline.cli.asking import give, renew_relay, see_that_one_may_come, wait_applied
from keepline.cli.common import json_option, outbox_and_settings, outbox_option, plain_errors
from keepline.errors import RelayError
from keepline.outbox.commands import Resume
from keepline.outbox.destinations import known_destinations


@click.command(short_help="Try what is out or paused at once.")
@outbox_option
@click.argument("destination", required=False)
@click.option(
    "--timeout", default=60.0, show_default=True, type=click.FloatRange(min=0), help="Longest wait, seconds."
)
@json_option
@plain_errors
def resume(outbox: str | None, destination: str | None, timeout: float, as_json: bool) -> None:
    """Try a destination that is out or paused at once; all of them when none is named.

    A key or address that was changed takes effect: a relay with other settings than those that are configured
    here is replaced. Starts a relay where none runs, unless `relay: external` is configured.
    """
    files, settings = outbox_and_settings(outbox, may_come=True)
    if settings is not None:
        names = {leg.name for leg in settings.legs}
    else:
        names = {one.name for one in known_destinations(files).values() if one.active}
    if destination is not None and destination not in names:
        raise RelayError(
            f"there is no destination `{destination}` in the configuration; there is: "
            f"{', '.join(sorted(names)) or 'none'}"
        )
    see_that_one_may_come(files, settings)
    if settings is not None:
        renew_relay(settings)
    wait_applied(files, settings, give(files, settings, [Resume(destination)]), timeout)
    if as_json:
        click.echo(json.dumps({"resumed": sorted(names) if destination is None else [destination]}))
    else:
        click.echo(
            f"resumed {destination or ', '.join(sorted(names))}; `keepline status` says what comes of it"
        )
