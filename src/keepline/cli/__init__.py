"""The console command ``keepline``: one command a module."""

from __future__ import annotations

import click

from keepline import __version__
from keepline.cli.demo import demo
from keepline.cli.flush import flush
from keepline.cli.relay import relay
from keepline.cli.status import status
from keepline.cli.stop import stop


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="keepline")
def main() -> None:
    """OpenLineage that never leaks, never blocks and never loses an event."""


for _command in (demo, relay, status, flush, stop):
    main.add_command(_command)
