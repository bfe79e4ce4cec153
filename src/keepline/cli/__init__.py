"""The console command ``keepline``: one command a module."""

from __future__ import annotations

import click

from keepline import __version__
from keepline.cli.dead import dead
from keepline.cli.demo import demo
from keepline.cli.flush import flush
from keepline.cli.forget import forget
from keepline.cli.reconcile import reconcile
from keepline.cli.relay import relay
from keepline.cli.replay import replay
from keepline.cli.resume import resume
from keepline.cli.runs import runs
from keepline.cli.status import status
from keepline.cli.stop import stop
from keepline.cli.trace import trace


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="keepline")
def main() -> None:
    """OpenLineage that never leaks, never blocks and never loses an event."""


for _command in (demo, relay, status, flush, stop, trace, runs, dead, replay, resume, forget, reconcile):
    main.add_command(_command)
