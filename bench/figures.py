"""What the benchmarks share: their options, how they sum times up, and how they say what they are doing."""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Numbers = dict[str, tuple[float, float, str]]
"""Of each option: its default, its value with ``--quick``, and what it means."""


@dataclass(frozen=True)
class Table:
    """Figures for people.

    Args:
        caption: what they are of.
        heads: of the columns; the first column is text, the others are numbers.
        rows: the cells.
    """

    caption: str
    heads: list[str]
    rows: list[list[Any]]

    def text(self) -> str:
        """For a terminal."""
        cells = [self.heads, *([str(cell) for cell in row] for row in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.heads))]
        lines = [self.caption]
        for first, *others in cells:
            numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
            lines.append("  ".join((first.ljust(widths[0]), *numbers)).rstrip())
        return "\n".join(lines)

    def markdown(self) -> str:
        """For a page."""
        lines = [self.heads, ["---", *["---:"] * (len(self.heads) - 1)], *self.rows]
        drawn = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in lines)
        return f"{self.caption}\n\n{drawn}"


def run(
    text: str | None,
    numbers: Numbers,
    measured: Callable[[argparse.Namespace], dict[str, Any]],
    tables: Callable[[dict[str, Any]], list[Table]],
) -> None:
    """Be a benchmark: read the command line, measure, print.

    Args:
        text: what it is; its first line is shown.
        numbers: its options.
        measured: gives the figures.
        tables: makes tables of them, for people.
    """
    parser = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    for name, (default, _, meaning) in numbers.items():
        parser.add_argument(f"--{name}", type=type(default), help=f"{meaning} ({default})")
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run at all?")
    parser.add_argument("--folder", help="where to make outboxes (the folder for temporary files)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    for name, (default, quick, _) in numbers.items():
        known_as = name.replace("-", "_")
        if getattr(options, known_as) is None:
            setattr(options, known_as, quick if options.quick else default)
    # So that a benchmark that is told to end takes what it has started with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="keepline-bench-", dir=options.folder) as folder:
        options.folder = Path(folder)
        result = measured(options)
    if options.json:
        json.dump(result, sys.stdout, indent=2)
        print()
        return
    for number, table in enumerate(tables(result)):
        print(("\n" if number else "") + table.text())


@contextmanager
def told(what: str) -> Iterator[None]:
    """Say on standard error what is being done, then how long it took."""
    print(f"  {what} ...", end=" ", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        yield
    except BaseException:
        print("failed", file=sys.stderr, flush=True)
        raise
    print(f"{time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


def centiles(times: list[float]) -> dict[str, float]:
    """Microseconds: the middle, the tail, the worst."""
    found = statistics.quantiles(times, n=1000, method="inclusive")
    return {
        "p50": round(found[499], 1),
        "p99": round(found[989], 1),
        "p99.9": round(found[998], 1),
        "worst": round(max(times), 1),
    }


def middle(values: Iterable[float], digits: int = 4) -> dict[str, float]:
    """The median of some rounds, and their range."""
    found = sorted(values)
    return {
        "median": round(statistics.median(found), digits),
        "least": round(found[0], digits),
        "most": round(found[-1], digits),
    }


def ranged(found: dict[str, float], form: str, unit: str = "") -> str:
    """A median with its range, for a table."""
    median, least, most = (format(found[key], form) for key in ("median", "least", "most"))
    return f"{median}{unit} ({least} to {most})"
