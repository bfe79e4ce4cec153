from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
from openlineage.client.uuid import generate_new_uuid
from tests.integration.airflow_support import KEEPLINE, Airflow, Variant, airflow
from tests.support_outbox import until

from keepline.demo.destination import Answer, Received, RecordingDestination
from keepline.outbox.files import OutboxFiles
from keepline.relay.lock import running

__all__ = ["airflow"]

SCHEDULER = ["scheduler", "--num-runs", "5"]


def leg(destination: RecordingDestination, key: str) -> dict[str, Any]:
    auth = {"type": "api_key", "apiKey": key}
    return {"type": "http", "url": destination.url, "auth": auth}


def configure(airflow: Airflow, outbox: Path, destination: RecordingDestination, key: str = "new") -> None:
    legs = {"trove": leg(destination, key)}
    airflow.transport({"type": KEEPLINE, "outbox": str(outbox), "transports": legs, "backoff_first": 0.05})


def leave(outbox: Path, destination: RecordingDestination, relay: str = "external", key: str = "new") -> None:
    """Append an event, as a scheduler that isn't there any more."""
    legs = {"trove": leg(destination, key)}
    transport = {"type": KEEPLINE, "outbox": str(outbox), "relay": relay, "transports": legs}
    event = RunEvent(
        eventType=RunState.START,
        eventTime="2026-01-01T00:00:00Z",
        run=Run(runId=str(generate_new_uuid())),
        job=Job("namespace", "name"),
        producer="here",
    )
    OpenLineageClient(config={"transport": transport}).emit(event)


def relay_of(outbox: Path) -> int | None:
    found = running(OutboxFiles(outbox))
    return None if found is None else found.pid


@pytest.fixture
def stopped() -> Iterator[list[int]]:
    """Processes to kill at the end, which nothing else could end."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_a_scheduler_that_starts_delivers_what_was_left(
    airflow: Airflow, outbox: Path, destination: RecordingDestination
):
    configure(airflow, outbox, destination)
    leave(outbox, destination)

    found = airflow.script("scheduler", SCHEDULER).result
    destination.wait_for(lambda it: len(it.events) == 1, 20)
    assert (found["looked"], found["started"], found["left"]) == (True, 1, [])
    assert found["seconds"] < 2.0


def test_a_scheduler_that_starts_starts_nothing_where_nothing_waits(
    airflow: Airflow, outbox: Path, destination: RecordingDestination
):
    configure(airflow, outbox, destination)
    found = airflow.script("scheduler", SCHEDULER).result
    assert (found["looked"], found["started"]) == (True, 0)
    assert relay_of(outbox) is None


def test_a_key_that_was_corrected_heals_the_lane_when_the_scheduler_starts(
    airflow: Airflow, outbox: Path, destination: RecordingDestination
):
    def check(request: Received) -> Answer:
        return Answer(201 if request.headers["authorization"] == "Bearer new" else 401)

    destination.answer_with(check)
    leave(outbox, destination, relay="auto", key="old")
    destination.wait_for(lambda it: any(one.status == 401 for one in it.received), 20)
    old = relay_of(outbox)

    configure(airflow, outbox, destination)
    found = airflow.script("scheduler", SCHEDULER).result
    destination.wait_for(lambda it: len(it.events) == 1, 20)
    assert relay_of(outbox) != old
    assert found["seconds"] < 3.0


def test_a_relay_with_the_same_settings_goes_on(
    airflow: Airflow, outbox: Path, destination: RecordingDestination
):
    configure(airflow, outbox, destination)
    destination.answer(503)
    leave(outbox, destination)
    airflow.script("scheduler", SCHEDULER)
    until(lambda: destination.received)
    before = relay_of(outbox)

    found = airflow.script("scheduler", SCHEDULER).result
    assert (found["started"], relay_of(outbox)) == (0, before)


def test_no_other_process_looks_after_the_outbox(
    airflow: Airflow, outbox: Path, destination: RecordingDestination
):
    configure(airflow, outbox, destination)
    leave(outbox, destination)
    others: dict[str, Variant] = {
        "a triggerer": ([["triggerer"]], {}),
        "a task": ([["tasks", "run", "scheduler"]], {}),
        "a child of a scheduler": ([SCHEDULER, True], {}),
    }
    for other, outcome in airflow.variants("scheduler", others).items():
        assert (outcome.result["looked"], outcome.result["started"]) == (False, 0), other
        assert outcome.result["seconds"] < 0.5


def test_a_scheduler_starts_all_the_same_when_the_configuration_is_wrong(airflow: Airflow, outbox: Path):
    airflow.transport({"type": KEEPLINE, "outbox": str(outbox), "relay": "sometimes", "transports": {}})
    outcome = airflow.script("scheduler", SCHEDULER)
    (line,) = outcome.lines("can't look after the relay")
    assert "`relay` is 'sometimes'" in line
    assert "no impact on task status" in line


@pytest.mark.parametrize("airflow", ["3.3.2"], indirect=True)  # it takes 6 s
def test_a_scheduler_starts_all_the_same_when_the_relay_does_not_end(
    airflow: Airflow, outbox: Path, destination: RecordingDestination, stopped: list[int]
):
    destination.answer(503)
    leave(outbox, destination, relay="auto", key="old")
    until(lambda: destination.received)
    stopped.append(relay_of(outbox) or 0)
    os.kill(stopped[0], signal.SIGSTOP)

    configure(airflow, outbox, destination)
    outcome = airflow.script("scheduler", SCHEDULER)
    assert outcome.result["seconds"] < 8.0
    (line,) = outcome.lines("can't look after the relay")
    assert "has not ended within 6 s" in line
