"""``relay: inline`` in the process of a task, which ends without Python's own end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.integration.airflow_support import KEEPLINE, Airflow, Outcome, airflow
from tests.support_relay import leg

from keepline.demo.destination import Fault, RecordingDestination
from keepline.outbox.files import OutboxFiles
from keepline.outbox.status import OutboxStatus, read_status
from keepline.relay.lock import RelayLock

__all__ = ["airflow"]

pytestmark = pytest.mark.timeout(180)

TIMEOUT = 1.0
MARGIN = 3.0  # seconds: for the end of what was under way


def ends(airflow: Airflow, destination: RecordingDestination, who: str, **keys: Any) -> Outcome:
    legs = {"a": leg(destination)}
    airflow.transport({"type": KEEPLINE, "relay": "inline", "transports": legs, **keys})
    return airflow.script("flushing", who)


def status(airflow: Airflow) -> OutboxStatus:
    return read_status(OutboxFiles(Path(airflow.home) / "keepline"))


def kinds(destination: RecordingDestination) -> list[str]:
    return [event["eventType"] for event in destination.events]


@pytest.mark.parametrize("who", ["task", "fork"])
def test_what_a_task_has_emitted_arrives_before_its_process_ends(
    airflow: Airflow, destination: RecordingDestination, who: str
) -> None:
    airflow.env["AIRFLOW__KEEPLINE__FLUSH_TIMEOUT"] = "60"
    outcome = ends(airflow, destination, who)
    assert status(airflow).settled
    assert kinds(destination) == ["START", "COMPLETE"]
    assert not outcome.lines("have not arrived")


def test_a_task_s_process_ends_in_time_whatever_its_destination_does_and_says_what_it_leaves(
    airflow: Airflow, destination: RecordingDestination
) -> None:
    airflow.env["AIRFLOW__KEEPLINE__FLUSH_TIMEOUT"] = str(TIMEOUT)
    destination.fault(Fault.NO_ANSWER)
    outcome = ends(airflow, destination, "watcher")
    first, second = outcome.result["took"]
    assert TIMEOUT <= first < TIMEOUT + MARGIN
    assert second < 0.5  # it was given its time
    (said,) = outcome.lines("have not arrived")
    assert "2 not at `a`" in said
    assert str(airflow.home / "keepline") in said
    assert not outcome.lines("Traceback")
    assert [one.pending for one in status(airflow).destinations] == [2]


def test_nobody_waits_and_nothing_is_said_where_another_process_delivers(
    airflow: Airflow, destination: RecordingDestination
) -> None:
    airflow.env["AIRFLOW__KEEPLINE__FLUSH_TIMEOUT"] = "60"
    lock = RelayLock.take(OutboxFiles(Path(airflow.home) / "keepline"))
    assert lock is not None
    try:
        outcome = ends(airflow, destination, "task")
    finally:
        lock.release()
    assert max(outcome.result["took"]) < 30
    assert not outcome.lines("have not arrived")
    assert status(airflow).waiting == 2


def test_only_a_task_s_process_waits_and_only_where_it_delivers_itself(
    airflow: Airflow, destination: RecordingDestination
) -> None:
    destination.fault(Fault.NO_ANSWER)
    assert max(ends(airflow, destination, "scheduler").result["took"]) < TIMEOUT
    outcome = ends(airflow, destination, "task", relay="external", outbox=str(airflow.home / "other"))
    assert not outcome.result["loaded"]
    assert max(outcome.result["took"]) < TIMEOUT


def test_a_wrong_flush_timeout_is_named_and_the_default_used(
    airflow: Airflow, destination: RecordingDestination
) -> None:
    airflow.env["AIRFLOW__KEEPLINE__FLUSH_TIMEOUT"] = "soon"
    outcome = ends(airflow, destination, "task")
    said, *_ = outcome.lines("[keepline] flush_timeout` is 'soon'")
    assert "3 is used" in said
