"""The console command ``keepline``: one command a module, loaded when it is asked for."""

from __future__ import annotations

from importlib import import_module

import click

from keepline import __version__

_NAMES = (
    "demo", "relay", "status", "check", "flush", "stop",
    "trace", "runs", "dead", "replay", "reconcile", "resume", "forget",
)  # fmt: skip


class _Commands(click.Group):
    """Each command is in the module of its name; a probe that runs every few seconds loads but its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _NAMES:
            return None
        command: click.Command = getattr(import_module(f"keepline.cli.{cmd_name}"), cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="keepline")
def main() -> None:
    """OpenLineage that never leaks, never blocks and never loses an event."""
