"""``keepline demo``: tells the story in a folder that is thrown away, with a progress bar and a table."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from keepline.errors import KeeplineError

_NEEDED = ("apache-airflow", "apache-airflow-providers-openlineage", "openlineage-python")
_IDLE_SECONDS = 10.0

# What was reported of one client an event, with openlineage-python 1.47.1: events, threads, idle CPU %.
SEED = ((0, 1, 0.0), (50, 51, 29.5), (150, 151, 72.0), (400, 401, 167.6))


def run_demo(console: Console, *, runs: int, as_json: bool) -> int:
    """Run the main job.

    Args:
        console: where progress and the table go.
        runs: DAG runs.
        as_json: print one JSON document on standard output instead of the table.

    Returns:
        0 when nothing was lost and nothing came out of order, 1 otherwise.
    """
    versions = {}
    for name in _NEEDED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            _fail(f"{name} is not installed here; run `pip install 'keepline[airflow]'`")
            return 1
    from keepline.demo.story import EVENTS_A_RUN, Outcome, Story

    began = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="keepline-demo-"))
    try:
        with _progress(console) as progress:
            finished = progress.add_task("DAG runs finished", total=runs)
            delivered = progress.add_task("events at both destinations", total=runs * EVENTS_A_RUN)

            def advance(runs_finished: int, events_delivered: int) -> None:
                progress.update(finished, completed=runs_finished)
                progress.update(delivered, completed=min(events_delivered, runs * EVENTS_A_RUN))

            def say(line: str) -> None:
                progress.console.print(f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {line}")

            outcome: Outcome = Story(
                home,
                Path(sys.executable),
                runs=runs,
                say=say,
                advance=advance,
                idle_seconds=_IDLE_SECONDS,
            ).tell()
    except (KeeplineError, TimeoutError) as error:
        _fail(f"the demo could not be run: {error}")
        return 1
    finally:
        shutil.rmtree(home, ignore_errors=True)
    seconds = time.monotonic() - began
    if as_json:
        print(json.dumps(document(outcome, versions, runs, seconds), indent=2))
    else:
        _print(console, outcome, versions, runs, seconds)
    return 0 if outcome.good else 1


def _fail(text: str) -> None:
    # Brackets, such as those of an extra, are no markup.
    Console(stderr=True).print(f"Error: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


def document(outcome: Any, versions: dict[str, str], runs: int, seconds: float) -> dict[str, Any]:
    """What JSON shows of an outcome.

    Args:
        outcome: of the story.
        versions: of what took part.
        runs: DAG runs.
        seconds: that it took.
    """
    return {
        "versions": versions,
        "runs": runs,
        "seconds": round(seconds, 1),
        "destinations": {name: one.as_dict() for name, one in outcome.tallies.items()},
        "scheduler_stopped_in": round(outcome.stopped_in, 2),
        "deliveries_waiting_then": outcome.waited,
        "processes": [
            {
                "process": one.what,
                "pid": one.cost.pid,
                "threads": one.cost.threads,
                "connections": {n: one.cost.connections.get(port, 0) for n, port in outcome.ports.items()},
                "rss_mb": round(one.cost.rss, 1),
                "idle_cpu_percent": round(one.idle_cpu, 2),
            }
            for one in outcome.measured
        ],
        "good": outcome.good,
    }


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _print(console: Console, outcome: Any, versions: dict[str, str], runs: int, seconds: float) -> None:
    events = Table(title=f"{runs} DAG runs, each with a START and a COMPLETE", title_justify="left")
    for title in ("destination", "expected", "delivered", "lost", "duplicates", "out of order"):
        events.add_column(title, justify="left" if title == "destination" else "right")
    for name, one in outcome.tallies.items():
        lost = f"[red]{one.lost}[/red]" if one.lost else "[green]0[/green]"
        events.add_row(
            name, *map(str, (one.expected, one.delivered)), lost, str(one.duplicates), str(one.out_of_order)
        )
    costs = Table(title="what is left running, idle", title_justify="left")
    for title in ("process", "events", "threads", "connections", "memory", "idle CPU"):
        costs.add_column(title, justify="left" if title == "process" else "right")
    for one in outcome.measured:
        connections = ", ".join(
            f"{n} {one.cost.connections.get(port, 0)}" for n, port in outcome.ports.items()
        )
        costs.add_row(
            f"keepline {one.what}",
            str(runs * 2),
            str(one.cost.threads),
            connections,
            f"{one.cost.rss:.0f} MB",
            f"{one.idle_cpu:.1f} %",
        )
    costs.add_section()
    for count, threads, cpu in SEED:
        costs.add_row("one client per event (reported)", str(count), str(threads), "", "", f"{cpu:.1f} %")
    console.print()
    console.print(events)
    console.print(costs)
    verdict = (
        "[green]nothing was lost[/green]" if outcome.good else "[red]NOT everything arrived in order[/red]"
    )
    console.print(
        f"{verdict}; the scheduler ended {outcome.stopped_in:.1f} s after SIGTERM with {outcome.waited} "
        f"deliveries waiting; {', '.join(f'{n} {v}' for n, v in versions.items())}; {seconds:.0f} s in all",
        highlight=False,
    )
