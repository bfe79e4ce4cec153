"""What commands share: finding the outbox, and turning errors into messages and exit statuses."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar, cast

import click

from keepline.config import OUTBOX_VARIABLE, Settings, outbox_folder
from keepline.discovery import client_transport, keepline_settings
from keepline.errors import KeeplineError
from keepline.outbox.files import OutboxFiles

_F = TypeVar("_F", bound=Callable[..., Any])


def configured() -> Settings | None:
    """Keepline's settings in the OpenLineage configuration of this environment, else in Airflow's.

    Raises:
        ConfigError: a setting is wrong.
    """
    found = keepline_settings(client_transport())
    if found is None and find_spec("airflow") and find_spec("airflow.providers.openlineage"):
        from keepline.airflow.configuration import settings

        found = settings()
    return found


def find_outbox(option: str | None) -> OutboxFiles:
    """The outbox that a command is about.

    The first of these that there is: the option, ``KEEPLINE_OUTBOX``, the OpenLineage or Airflow
    configuration, the default.

    Args:
        option: what ``--outbox`` says.

    Raises:
        ConfigError: a setting is wrong.
    """
    if option or os.environ.get(OUTBOX_VARIABLE):
        return OutboxFiles(outbox_folder(option))
    settings = configured()
    return OutboxFiles(settings.outbox if settings is not None else outbox_folder())


def outbox_option(command: _F) -> _F:
    """Add ``--outbox`` to a command."""
    option = click.option(
        "--outbox",
        metavar="FOLDER",
        help=f"The outbox; else {OUTBOX_VARIABLE}, then the configuration, then the default.",
    )
    return option(command)


def plain_errors(command: _F) -> _F:
    """Print an error of Keepline's as one line, and exit with status 1."""

    @functools.wraps(command)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except KeeplineError as error:
            raise click.ClickException(str(error)) from error

    return cast("_F", call)


def age(seconds: float | None) -> str:
    """A stretch of time for people: ``3 s``, ``12 min``, ``5 h``, ``2 d``.

    Args:
        seconds: how long; ``None`` for none.
    """
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
