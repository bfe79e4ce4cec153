"""``keepline stop``: end the relay."""

from __future__ import annotations

import json

import click

from keepline.cli.common import find_outbox, json_option, outbox_option, plain_errors
from keepline.relay import ending


@click.command(short_help="End the relay.")
@outbox_option
@click.option(
    "--timeout", default=15.0, show_default=True, type=click.FloatRange(min=0), help="Longest wait, seconds."
)
@json_option
@plain_errors
def stop(outbox: str | None, timeout: float, as_json: bool) -> None:
    """End the relay. What it has not delivered stays in the outbox.

    With `relay: auto` the next append starts one again.
    """
    files = find_outbox(outbox, may_come=True)
    ended = ending.stop(files, timeout)
    if as_json:
        click.echo(json.dumps({"ended": None if ended is None else ended.pid}))
        return
    click.echo("no relay was running" if ended is None else f"relay {ended.pid} has ended")
