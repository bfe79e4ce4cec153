"""Whether a relay can start with what is configured here, and what one that couldn't has said."""

from __future__ import annotations

import logging
import os

from keepline.config import Leg, Settings
from keepline.destinations.masking import mask, secrets_of
from keepline.errors import KeeplineError, RelayError
from keepline.outbox.files import OutboxFiles

_TAIL_BYTES = 8192


def judge(settings: Settings) -> None:
    """Have the client judge what is configured, as a relay would when it starts.

    Args:
        settings: as configured here.

    Raises:
        ConfigError: a setting of a leg is wrong.
        RelayError: the client doesn't take a leg; names it, and says what the client says.
    """
    # Here because they import the whole client.
    from keepline.destinations.legs import parse
    from keepline.destinations.native import endpoint_of

    # It logs what it raises, too, and not always in words that help.
    client = logging.getLogger("openlineage.client.utils")
    client.addFilter(_nothing)
    try:
        for leg in settings.legs:
            try:
                endpoint_of(parse(leg))
            except KeeplineError:
                raise
            except Exception as error:
                raise RelayError(_told(leg, error)) from error
    finally:
        client.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False


def _told(leg: Leg, error: Exception) -> str:
    if isinstance(error, ImportError) and "." not in leg.kind:
        return (
            f"transports.{leg.name}: `type` is {leg.kind!r}, which is no transport of the client's; name "
            "one, such as `http`, or a class in full"
        )
    text = f"{type(error).__name__}: {error}"
    # The client hides why an import has failed.
    if isinstance(error, ImportError) and error.__cause__ is not None:
        text += f" ({error.__cause__})"
    return f"transports.{leg.name}: {mask(' '.join(text.split()), secrets_of(leg.params))}"


def last_words(files: OutboxFiles, since: float) -> str:
    """The last line that a relay has logged; empty when none has logged anything.

    Args:
        files: the outbox.
        since: not before, s since 1970.
    """
    try:
        with files.relay_log.open("rb") as file:
            if os.fstat(file.fileno()).st_mtime < since:
                return ""
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TAIL_BYTES, 0))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
