"""An idle relay costs nothing: no switch to it, few threads, a bounded amount of memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support_relay import (
    EMITTER,
    Process,
    all_once,
    append,
    leg,
    relay_of,
    status,
    switches,
    threads,
    transport,
    until,
)

from keepline.demo.destination import Fault, RecordingDestination

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

WATCHED = 1.5


def idle_switches(pid: int) -> int:
    """How often a process was switched to in a while in which it had nothing to do."""
    before = switches(pid)
    time.sleep(WATCHED)  # nothing is waited for: this is what is measured
    return switches(pid) - before


def start(
    process: Callable[..., Process], outbox: Path, legs: dict[str, Any], **keys: Any
) -> tuple[int, Process, list[str]]:
    emitter = process(EMITTER, OPENLINEAGE__TRANSPORT=json.dumps(transport(outbox, legs, **keys)))
    emitter.tell("0 20")
    emitter.said("done 0")
    return until(lambda: relay_of(outbox)).pid, emitter, [str(number) for number in range(20)]


def test_an_idle_relay_is_never_switched_to(
    process: Callable[..., Process],
    destination: RecordingDestination,
    other: RecordingDestination,
    outbox: Path,
) -> None:
    legs = {"a": leg(destination), "d": {"type": "datadog", "apiKey": "no-key-at-all", "site": other.url}}
    pid, emitter, names = start(process, outbox, legs)
    until(lambda: all_once(destination, names) and all_once(other, names))
    until(lambda: all(not one.pending for one in status(outbox).destinations))
    until(lambda: idle_switches(pid) == 0)
    assert threads(pid) <= 3
    memory = psutil.Process(pid).memory_info().rss / 1e6
    print(f"an idle relay with two legs over HTTP: {memory:.1f} MB")
    assert memory < 70
    # The starter neither.
    assert idle_switches(emitter.pid) == 0
    # And it is awake at once.
    emitter.tell("100 5")
    until(lambda: all_once(destination, names + [str(number) for number in range(100, 105)]))
    assert relay_of(outbox).pid == pid  # type: ignore[union-attr]


@pytest.mark.parametrize("fault", [Fault.NO_ANSWER, None], ids=["silent", "down"])
def test_a_relay_in_an_outage_sleeps_through_its_pauses(
    fault: Fault | None, process: Callable[..., Process], destination: RecordingDestination, outbox: Path
) -> None:
    if fault is None:
        destination.down()
    else:
        destination.fault(fault)
    # Pauses of at least 60 s once the destination is out; a request is given up after 100 s.
    pid, _, _ = start(
        process, outbox, {"a": leg(destination, timeout=100)}, backoff_first=600, backoff_max=600
    )
    if fault is None:
        until(lambda: [one.state for one in status(outbox).destinations] == ["out"])
    else:
        destination.wait_for(lambda d: d.in_flight == 4, 30)
    until(lambda: idle_switches(pid) == 0)


def test_a_relay_that_somebody_runs_and_that_never_had_anything_to_do_is_idle(
    keepline: Callable[..., Process], destination: RecordingDestination, outbox: Path
) -> None:
    settings = json.dumps(transport(outbox, {"a": leg(destination)}, relay="external"))
    running = keepline("relay", OPENLINEAGE__TRANSPORT=settings)
    until(lambda: "delivering from" in running.output)
    until(lambda: idle_switches(running.pid) == 0)
    names = append(outbox, ["one"])
    until(lambda: all_once(destination, names))
