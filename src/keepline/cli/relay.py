"""``keepline relay``: deliver in this process, for ``relay: external``."""

from __future__ import annotations

import logging

import click

from keepline.cli.common import configured, outbox_option, plain_errors
from keepline.config import Settings
from keepline.errors import ConfigError, RelayError
from keepline.outbox.files import OutboxFiles
from keepline.relay.lock import RelayLock, running


@click.command()
@outbox_option
@click.option(
    "--exit-when-idle", is_flag=True, help="End when nothing is left to deliver for `relay_idle` seconds."
)
@click.option("-v", "--verbose", is_flag=True, help="Log details.")
@plain_errors
def relay(outbox: str | None, exit_when_idle: bool, verbose: bool) -> None:
    """Deliver what the outbox holds, until stopped by SIGTERM or Ctrl-C.

    Destinations are read from the OpenLineage or Airflow configuration of this environment.
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    settings = configured()
    if settings is None:
        raise ConfigError(
            "transport",
            None,
            "an OpenLineage transport of type `keepline.Transport` in OPENLINEAGE__TRANSPORT, "
            "openlineage.yml or [openlineage] transport",
        )
    if outbox:
        settings = Settings.from_dict({**settings.raw, "outbox": outbox})
    files = OutboxFiles(settings.outbox)
    lock = RelayLock.take(files)
    if lock is None:
        other = running(files)
        raise RelayError(
            f"a relay already delivers from {files.folder}"
            + (f" (pid {other.pid}); end it with `keepline stop`" if other else "; try again")
        )
    from keepline.relay.relay import serve

    names = ", ".join(leg.name for leg in settings.legs)
    try:
        lock.announce(settings)
        serve(
            settings,
            lock,
            ends_when_idle=exit_when_idle,
            ready=lambda: click.echo(f"delivering from {files.folder} to {names}"),
        )
    finally:
        lock.release()
