"""What commands print for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPED_COLUMNS = 200


def console() -> Console:
    """The standard output. Without markup: what a destination or an event says may look like it."""
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPED_COLUMNS)


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = ()) -> Table:
    """A table without lines.

    Args:
        titles: of the columns; the first is never shortened, since it names the row.
        rows: what stands in them.
        right: titles of the columns that hold numbers.
    """
    made = Table(box=None, pad_edge=False, header_style="bold")
    numbers = set(right)
    for place, title in enumerate(titles):
        made.add_column(title, justify="right" if title in numbers else "left", no_wrap=not place)
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def plain(text: str) -> str:
    """A text that moves no cursor, on one line.

    Args:
        text: what an event or a destination says.
    """
    return "".join(one if one.isprintable() else "?" for one in text)


def job(namespace: str, name: str) -> str:
    """A job's name in full; ``-`` for none.

    Args:
        namespace: of the job.
        name: of the job.
    """
    return plain(f"{namespace}/{name}") if namespace or name else "-"


def several(count: int, what: str) -> str:
    """``1 event``, ``2 events``."""
    return f"{count} {what}" + ("" if count == 1 else "s")


def size(count: float) -> str:
    """A number of bytes for people: ``0.1 MB``, ``8.6 GB``."""
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
