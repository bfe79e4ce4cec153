"""What commands share: finding the outbox, and turning errors into messages and exit statuses."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, TypeVar, cast

import click

from keepline.config import OUTBOX_VARIABLE, Settings, outbox_folder
from keepline.errors import KeeplineError, OutboxUnavailable
from keepline.outbox.files import OutboxFiles

log = logging.getLogger(__name__)

_F = TypeVar("_F", bound=Callable[..., Any])


def settings_for(option: str | None) -> Settings | None:
    """Keepline's settings in the OpenLineage configuration of this environment, else in Airflow's.

    Args:
        option: what ``--outbox`` says; it goes before ``KEEPLINE_OUTBOX``, and that before the configuration.

    Raises:
        ConfigError: a setting is wrong.
        Exception: what the client or Airflow raises for a configuration that can't be read.
    """
    # Here because it loads the whole OpenLineage client, which a command that is given its outbox can spare.
    from keepline.discovery import client_transport, keepline_settings

    with _unreadable_is_an_error():
        found = keepline_settings(client_transport())
    if found is None and has_provider():
        # Airflow talks while it is imported: what a program reads on the standard output must stay ours.
        with redirect_stdout(sys.stderr):
            from keepline.airflow.configuration import settings

            found = settings()
    named = option or os.environ.get(OUTBOX_VARIABLE)
    if found is None or not named:
        return found
    # Not parsed once more, which would warn once more of what is not known.
    return replace(found, outbox=outbox_folder(named), raw={**found.raw, "outbox": named})


@contextmanager
def _unreadable_is_an_error() -> Iterator[None]:
    # The client logs a traceback, and goes on as if there were no such file.
    client = logging.getLogger("openlineage.client.client")
    told: list[str] = []

    def take(record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR or not record.exc_info or record.exc_info[1] is None:
            return True
        said = " ".join(str(record.exc_info[1]).split())
        told.append(f"{record.getMessage().rstrip(': ')}: {said}")
        return False

    client.addFilter(take)
    try:
        yield
    finally:
        client.removeFilter(take)
    if told:
        raise click.ClickException(told[0])


def has_provider() -> bool:
    """Whether there is an Airflow beside this Python, with its OpenLineage provider."""
    with suppress(ImportError):
        return find_spec("airflow") is not None and find_spec("airflow.providers.openlineage") is not None
    return False


def find_outbox(option: str | None, *, may_come: bool = False) -> OutboxFiles:
    """The outbox that a command is about, for one that needs no more of the configuration.

    The first of these that there is: the option, ``KEEPLINE_OUTBOX``, the OpenLineage or Airflow
    configuration, the default.

    Args:
        option: what ``--outbox`` says.
        may_come: whether one that isn't there yet will do, unless it is the option's.

    Raises:
        OutboxUnavailable: there is none.
        ClickException: the configuration is wrong or can't be read.
    """
    return locate(option, may_come=may_come)[0]


def locate(option: str | None, *, may_come: bool = False) -> tuple[OutboxFiles, Settings | None]:
    """As :func:`find_outbox`, with the settings, where finding it took reading them.

    Args:
        option: what ``--outbox`` says.
        may_come: whether one that isn't there yet will do, unless it is the option's.
    """
    if option or os.environ.get(OUTBOX_VARIABLE):
        return _there(option, None, may_come=may_come), None
    try:
        settings = settings_for(None)
    except Exception as error:
        raise click.ClickException(
            f"{in_words(error)}; `--outbox FOLDER` does without the configuration"
        ) from error
    return _there(option, settings, may_come=may_come), settings


def outbox_and_settings(option: str | None, *, may_come: bool = False) -> tuple[OutboxFiles, Settings | None]:
    """The outbox that a command is about, and the settings, for one that may have to start a relay.

    Args:
        option: what ``--outbox`` says.
        may_come: whether an outbox that isn't there yet will do, unless it is the option's.

    Raises:
        ConfigError: a setting is wrong.
        OutboxUnavailable: there is no outbox.
        Exception: what the client or Airflow raises for a configuration that can't be read.
    """
    settings = settings_for(option)
    return _there(option, settings, may_come=may_come), settings


def _there(option: str | None, settings: Settings | None, *, may_come: bool) -> OutboxFiles:
    files = OutboxFiles(settings.outbox if settings is not None else outbox_folder(option))
    if may_come and not option:
        return files
    with suppress(OSError):  # Whoever reads it says what is wrong.
        if not files.folder.exists():
            raise OutboxUnavailable(
                f"there is no outbox at {files.folder} (from {_source(option, settings)})"
            )
    return files


def _source(option: str | None, settings: Settings | None) -> str:
    if option:
        return "`--outbox`"
    if os.environ.get(OUTBOX_VARIABLE):
        return OUTBOX_VARIABLE
    return "the configuration" if settings is not None and settings.raw.get("outbox") else "the default"


def outbox_option(command: _F) -> _F:
    """Add ``--outbox`` to a command."""
    option = click.option(
        "--outbox",
        metavar="FOLDER",
        help=f"The outbox; else {OUTBOX_VARIABLE}, then the configuration, then the default.",
    )
    return option(command)


def plain_errors(command: _F) -> _F:
    """Print what a command raises as one line, and exit with status 1. The traceback is logged at DEBUG."""

    @functools.wraps(command)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own business
        except Exception as error:
            log.debug("the failure was", exc_info=True)
            raise click.ClickException(in_words(error)) from error

    return cast("_F", call)


def in_words(error: Exception) -> str:
    """An error as one line.

    Args:
        error: whichever.
    """
    if isinstance(error, click.ClickException):
        return error.message
    # The client's messages don't say what they are about; ours do.
    kind = "" if isinstance(error, KeeplineError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


def json_option(command: _F) -> _F:
    """Add ``--json`` to a command."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")(command)


def yes_option(command: _F) -> _F:
    """Add ``--yes`` to a command."""
    return click.option("--yes", is_flag=True, help="Don't ask.")(command)


def confirm(question: str, *, yes: bool) -> None:
    """Go on only if somebody says so.

    Args:
        question: what to ask, with what is at stake.
        yes: whether it was said already.

    Raises:
        ClickException: there is nobody to ask.
        Abort: somebody has said no.
    """
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.ClickException(f"{question}? Nobody is there to ask; say --yes if that is meant")
    click.confirm(f"{question}?", abort=True, err=True)


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
