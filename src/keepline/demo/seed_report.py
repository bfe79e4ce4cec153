"""What `keepline demo --seed` has measured, as a table and as JSON."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from rich.markup import escape
from rich.table import Table

from keepline import __version__


@dataclass(frozen=True, slots=True)
class Row:
    """One process, after a number of events that both destinations have received.

    Args:
        events: how many.
        clients: that the process has made.
        idle_cpu_percent: of one core, over some seconds in which nobody asked anything of it.
        threads: at the end of them.
        open_files: file descriptors, sockets included.
        rss_mb: resident memory, MB of 10^6 bytes.
        connections: established ones to the destinations.
    """

    events: int
    clients: int
    idle_cpu_percent: float
    threads: int
    open_files: int
    rss_mb: float
    connections: int


@dataclass(slots=True)
class Story:
    """What became of one process, event by event.

    Args:
        process: what it is and does.
        rows: by number of events.
        cut_short: why there are no more rows; None when all are there.
    """

    process: str
    rows: list[Row] = field(default_factory=list)
    cut_short: str | None = None


def document(stories: list[Story], idle_seconds: float) -> dict[str, Any]:
    """What JSON shows of them.

    Args:
        stories: one for each process.
        idle_seconds: over which the idle CPU was measured.
    """
    return {
        "openlineage_python": version("openlineage-python"),
        "keepline": __version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "idle_seconds": idle_seconds,
        "processes": [asdict(story) for story in stories],
    }


def table(stories: list[Story], idle_seconds: float) -> Table:
    """What people see of them.

    Args:
        stories: one for each process.
        idle_seconds: over which the idle CPU was measured.
    """
    shown = Table(
        title=f"openlineage-python {version('openlineage-python')}, keepline {__version__}: "
        f"after so many events, and idle for {idle_seconds:g} s",
        caption="\n".join(
            f"[red]{escape(story.process)}: cut short, {escape(story.cut_short)}[/red]"
            for story in stories
            if story.cut_short
        )
        or None,
    )
    shown.add_column("process", max_width=32)
    for heading in ("events", "clients", "threads", "idle CPU %", "open files", "RSS MB", "connections"):
        shown.add_column(heading, justify="right")
    for story in stories:
        for row in story.rows:
            shown.add_row(
                escape(story.process) if row is story.rows[0] else "",
                *map(str, (row.events, row.clients, row.threads, f"{row.idle_cpu_percent:.1f}")),
                *map(str, (row.open_files, f"{row.rss_mb:.0f}", row.connections)),
            )
        shown.add_section()
    return shown
