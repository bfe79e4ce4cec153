"""Times as somebody types them, and as somebody reads them."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Any

import click

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

FORMS = (
    "2026-01-31T18:30 (local time unless it names a zone: ...Z, ...+02:00), or how long ago: 90s, 30m, 2h, 3d"
)
"""What a time may look like, for help texts."""


class When(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4
    """A point in time; becomes s since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it, or say what was expected."""
        if isinstance(value, (int, float)):
            return float(value)
        text = str(value).strip()
        ago = _AGO.fullmatch(text)
        if ago is not None:
            return time.time() - float(ago[1]) * _SECONDS[ago[2]]
        try:
            # Python 3.10 doesn't know the Z.
            return datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text)).timestamp()
        except (ValueError, OverflowError, OSError):
            self.fail(f"{text!r} is no time; give {FORMS}", param, ctx)


def see_that_in_order(first: str, since: float | None, last: str, until: float | None) -> None:
    """Raise where a stretch of time ends before it begins.

    Args:
        first: the option that says where it begins.
        since: what it says, s since 1970.
        last: the option that says where it ends.
        until: what it says, s since 1970.

    Raises:
        UsageError: it does.
    """
    if since is not None and until is not None and since >= until:
        raise click.UsageError(f"{first} is not before {last}; nothing can fit")


def clock(at: float | None) -> str:
    """A point in time for people, in local time; ``-`` for none.

    Args:
        at: s since 1970.
    """
    return "-" if at is None else datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
