"""What a relay's process logs: its own words and those of the client's transports, without secrets."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from logging.handlers import RotatingFileHandler
from pathlib import Path

from keepline.config import Settings
from keepline.destinations.masking import mask, secrets_of

_LOG_BYTES = 2 * 1024 * 1024


class MaskingFormatter(logging.Formatter):
    """Formats records, tracebacks included, and hides what it has been told to.

    The client's token providers log what went wrong with the address they asked, and that can hold a key.

    Args:
        fmt: as of :class:`logging.Formatter`.
    """

    def __init__(self, fmt: str) -> None:
        super().__init__(fmt)
        self._secrets: frozenset[str] = frozenset()

    def hide(self, settings: Settings) -> None:
        """Hide the secrets of all legs, and the key that one may take from the environment.

        Args:
            settings: of the relay.
        """
        found: Iterable[frozenset[str]] = (secrets_of(leg.params) for leg in settings.legs)
        self._secrets = secrets_of({"key": os.environ.get("DD_API_KEY", "")}).union(*found)

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, without secrets."""
        return mask(super().format(record), self._secrets)


def log_to_file(path: Path) -> MaskingFormatter:
    """Log to a file of bounded size.

    Args:
        path: the file; one older file is kept beside it.
    """
    formatter = MaskingFormatter("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s")
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, delay=True)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return formatter


def log_to_terminal(*, verbose: bool) -> MaskingFormatter:
    """Log to standard error.

    Args:
        verbose: whether details are wanted.
    """
    formatter = MaskingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if verbose:
        # Ours alone: the client's and asyncio's would bury them.
        logging.getLogger("keepline").setLevel(logging.DEBUG)
    return formatter
