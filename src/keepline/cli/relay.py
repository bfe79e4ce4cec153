"""``keepline relay``: deliver in this process, for ``relay: external``."""

from __future__ import annotations

import logging

import click

from keepline.cli.apart import settings_apart
from keepline.cli.common import outbox_option, plain_errors
from keepline.cli.judging import judge
from keepline.config import Settings
from keepline.errors import ConfigError, KeeplineError, RelayError
from keepline.outbox.files import OutboxFiles
from keepline.relay.lock import RelayLock, running
from keepline.relay.logs import log_to_terminal
from keepline.relay.process import leave, serve


@click.command(short_help="Deliver in the foreground.")
@outbox_option
@click.option(
    "--exit-when-idle", is_flag=True, help="End when nothing is left to deliver for `relay_idle` seconds."
)
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="When told to end, deliver what waits first, for at most so long; a second signal ends it at once.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log details.")
@plain_errors
def relay(outbox: str | None, exit_when_idle: bool, drain: float, verbose: bool) -> None:
    """Deliver what the outbox holds, until stopped by SIGTERM or Ctrl-C.

    Destinations are read from the OpenLineage or Airflow configuration of this environment.
    """
    settings = settings_apart(outbox)
    if settings is None:
        raise ConfigError(
            "transport",
            None,
            "an OpenLineage transport of type `keepline.Transport` in OPENLINEAGE__TRANSPORT, "
            "openlineage.yml or [openlineage] transport",
        )
    # Not before: the client says at INFO which transport it would use, which isn't the one meant here.
    log_to_terminal(verbose=verbose).hide(settings)
    if not verbose:
        # The client logs the errors that it raises.
        logging.getLogger("openlineage.client.utils").setLevel(logging.ERROR)
    lock = _take_lock(OutboxFiles(settings.outbox))
    try:
        serve(
            settings,
            lock,
            ends_when_idle=exit_when_idle,
            ready=lambda: _say(settings),
            foreground=True,
            drain=drain,
        )
    except KeeplineError as error:
        # A transport may have left threads that never end: they must not keep a supervisor waiting.
        click.echo(f"Error: {error}", err=True)
        leave(1)
    except Exception:
        judge(settings)  # Says which leg it is.
        raise
    leave(0)


def _take_lock(files: OutboxFiles) -> RelayLock:
    lock = RelayLock.take(files)
    if lock is not None:
        return lock
    other = running(files)
    raise RelayError(
        f"a relay already delivers from {files.folder}"
        + (f" (pid {other.pid}); end it with `keepline stop`" if other else "; try again")
    )


def _say(settings: Settings) -> None:
    names = ", ".join(leg.name for leg in settings.legs)
    click.echo(f"delivering from {settings.outbox} to {names}")
