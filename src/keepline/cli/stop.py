"""``keepline stop``: end the relay."""

from __future__ import annotations

import click

from keepline.cli.common import find_outbox, outbox_option, plain_errors
from keepline.relay import ending


@click.command()
@outbox_option
@click.option(
    "--timeout", default=15.0, show_default=True, type=click.FloatRange(min=0), help="Longest wait, seconds."
)
@plain_errors
def stop(outbox: str | None, timeout: float) -> None:
    """End the relay. What it has not delivered stays in the outbox.

    With `relay: auto` the next append starts one again.
    """
    files = find_outbox(outbox, may_come=True)
    ended = ending.stop(files, timeout)
    click.echo("no relay was running" if ended is None else f"relay {ended.pid} has ended")
