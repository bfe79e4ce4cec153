"""`keepline demo --seed`: what a client for each event costs, and what Keepline costs for the same events.

The table of the report that Keepline comes from, measured anew with the installed openlineage-python. Each
process in it is fresh, so that none disturbs another; the destinations are here, on loopback.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import Progress

from keepline.demo.destination import RecordingDestination
from keepline.demo.processes import cost, cpu_seconds
from keepline.demo.seed_process import SeedProcess
from keepline.demo.seed_report import Row, Story, document, table
from keepline.errors import KeeplineError, RelayError
from keepline.outbox.files import OutboxFiles
from keepline.relay.ending import stop as stop_relay
from keepline.relay.lock import running

STEPS = (0, 50, 150, 400)
IDLE_SECONDS = 3.0
CLIENTS_SECONDS = 38.0
KEEPLINE_SECONDS = 15.0
"""The most that these two parts take: with their ends, less than a minute."""
RELAY_END_SECONDS = 6.0  # more than its own bound


def run_seed(console: Console, *, as_json: bool = False) -> int:
    """Measure and show. Takes less than a minute, talks to loopback only, leaves nothing behind.

    Args:
        console: where to show progress and the table.
        as_json: show one JSON document instead of both.

    Returns:
        0, or 1 when a part of it couldn't be measured; what is shown says why.

    Raises:
        KeeplineError: this system isn't Linux.
    """
    if sys.platform != "linux":
        raise KeeplineError("keepline demo --seed measures processes as only Linux lets it; run it there")
    with Progress(console=console, transient=True, disable=as_json) as progress:
        task = progress.add_task("processes start", total=3 * len(STEPS))

        def advance(what: str) -> None:
            progress.update(task, description=what, advance=1)

        deadline = time.monotonic() + CLIENTS_SECONDS
        stories = [_client_per_event("a client for each event", {}, deadline, advance)]
        if _threads_are_lazy(stories[0]):
            rules = {"async_transport_rules": {"*": {"*": True}}}
            name = "a client for each event, async_transport_rules *: *"
            stories.append(_client_per_event(name, rules, deadline, advance))
        else:
            stories[0].process += ", whatever async_transport_rules say"
            progress.update(task, total=2 * len(STEPS))
        stories += _keepline(time.monotonic() + KEEPLINE_SECONDS, advance)
    if as_json:
        console.print_json(data=document(stories, IDLE_SECONDS))
    else:
        console.print(table(stories, IDLE_SECONDS))
    return int(any(story.cut_short for story in stories))


def _client_per_event(
    name: str, rules: dict[str, Any], deadline: float, advance: Callable[[str], None]
) -> Story:
    story = Story(name)
    with _stage(deadline) as stage, _told_if_cut_short(story):
        transport = {"type": "composite", "transports": stage.transports(rules)}
        with SeedProcess(stage.folder, transport, client_per_event=True) as process:
            for events in stage.steps(process, story, advance):
                [taken] = stage.measure(process, [process.pid])
                story.rows.append(Row(events, events, *taken))
    return story


def _threads_are_lazy(story: Story) -> bool:
    # In client 1.47.1 each datadog transport starts its thread at once, whatever its rules say; in 1.54.0 it
    # starts it for the first event that the rules send to it.
    return all(row.threads <= row.clients for row in story.rows if row.clients)


def _keepline(deadline: float, advance: Callable[[str], None]) -> list[Story]:
    emitting, relay = Story("keepline, one client: the emitting process"), Story("keepline: its relay")
    with _stage(deadline) as stage, _told_if_cut_short(emitting):
        files = OutboxFiles(stage.folder / "outbox")
        transport = {
            "type": "keepline.Transport",
            "outbox": str(files.folder),
            "relay": "auto",
            "transports": stage.transports({}),
        }
        # The process before the relay: it would start another one.
        with _relay_ended(files), SeedProcess(stage.folder, transport, client_per_event=False) as process:
            for events in stage.steps(process, emitting, advance):
                info = running(files)
                pids = [process.pid] if info is None else [process.pid, info.pid]
                measured = stage.measure(process, pids)
                for story, taken in zip((emitting, relay), measured, strict=False):
                    story.rows.append(Row(events, int(story is emitting), *taken))
    return [emitting, relay]


@contextlib.contextmanager
def _told_if_cut_short(story: Story) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, KeeplineError, psutil.Error) as error:
        story.cut_short = str(error)


@contextlib.contextmanager
def _relay_ended(files: OutboxFiles) -> Iterator[None]:
    try:
        yield
    finally:
        deadline = time.monotonic() + RELAY_END_SECONDS
        while True:
            try:
                stop_relay(files, RELAY_END_SECONDS)
                break
            except RelayError:
                # One that is just starting can't be told to end before it has said who it is.
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class _Stage:
    """Two destinations and a folder, for one scene."""

    folder: Path
    local: RecordingDestination
    datadog: RecordingDestination
    deadline: float

    def transports(self, datadog: dict[str, Any]) -> dict[str, Any]:
        return {
            "local": {"type": "http", "url": self.local.url},
            "datadog": {"type": "datadog", "apiKey": "fake", "site": self.datadog.url, **datadog},
        }

    def steps(self, process: SeedProcess, story: Story, advance: Callable[[str], None]) -> Iterator[int]:
        """Have events emitted; each number of them once both destinations have received as many."""
        for events in STEPS:
            process.emit_up_to(events, self._left())
            for destination in (self.local, self.datadog):
                destination.wait_for(partial(_has_received, events), self._left())
            yield events
            advance(story.process)

    def measure(self, process: SeedProcess, pids: list[int]) -> list[tuple[float, int, int, float, int]]:
        """Idle CPU in percent, threads, files, memory and connections of processes, over the same time."""
        ports = [int(one.url.rpartition(":")[2]) for one in (self.local, self.datadog)]
        clock, before = time.perf_counter(), [cpu_seconds(pid) for pid in pids]
        process.stay_idle(IDLE_SECONDS)
        took = time.perf_counter() - clock
        used = [cpu_seconds(pid) - cpu for pid, cpu in zip(pids, before, strict=True)]
        held = [cost(pid) for pid in pids]
        return [
            (
                100 * cpu / took,
                one.threads,
                one.fds,
                one.rss,
                sum(one.connections.get(port, 0) for port in ports),
            )
            for cpu, one in zip(used, held, strict=True)
        ]

    def _left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())


def _has_received(events: int, destination: RecordingDestination) -> bool:
    return len(destination.events) >= events


@contextlib.contextmanager
def _stage(deadline: float) -> Iterator[_Stage]:
    with (
        tempfile.TemporaryDirectory(prefix="keepline-seed-") as folder,
        RecordingDestination() as local,
        RecordingDestination() as datadog,
    ):
        yield _Stage(Path(folder), local, datadog, deadline)
