"""What commands print for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from shutil import get_terminal_size

import click
from rich.cells import cell_len, set_cell_size
from rich.console import Console

_LEAST_COLUMNS = 12
_BETWEEN = "  "
_SHORTENED = frozenset({"answer", "last answer"})


def console() -> Console:
    """The standard output. Without markup: what a destination or an event says may look like it."""
    return Console(highlight=False, markup=False)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = ()) -> None:
    """Print a table without lines, each row on one line.

    On a terminal answers are shortened so that it fits. Nothing else is: what is cut off can't be pasted.

    Args:
        titles: of the columns.
        rows: what stands in them.
        right: titles of the columns that hold numbers.
    """
    lines = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(titles, *lines, strict=True)]
    if sys.stdout.isatty():
        beyond = sum(widths) + len(_BETWEEN) * (len(widths) - 1) - get_terminal_size().columns
        for place, title in enumerate(titles):
            if title in _SHORTENED and beyond > 0:
                widths[place] = min(widths[place], max(widths[place] - beyond, _LEAST_COLUMNS))
    numbers = set(right)
    for number, line in enumerate([list(titles), *lines]):
        cells = [
            _fitted(cell, width, right=title in numbers)
            for cell, width, title in zip(line, widths, titles, strict=True)
        ]
        text = _BETWEEN.join(cells).rstrip()
        click.echo(text if number else click.style(text, bold=True))


def _fitted(text: str, width: int, *, right: bool) -> str:
    if cell_len(text) > width:
        text = set_cell_size(text, width - 1).rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    blanks = " " * (width - cell_len(text))
    return blanks + text if right else text + blanks


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
