from __future__ import annotations

from tests.integration.airflow_support import KEEPLINE, Airflow, airflow

from keepline.demo.destination import RecordingDestination

__all__ = ["airflow"]

NOWHERE = {"type": KEEPLINE, "transports": {"a": {"type": "http", "url": "http://127.0.0.1:9"}}}


def test_a_worker_shares_no_connection_with_its_owner(airflow: Airflow):
    airflow.transport(NOWHERE)
    owner, worker = airflow.script("resident").result
    for what in ("pid", "engine", "connection"):
        assert owner[what] != worker[what]


def test_the_event_of_a_killed_worker_is_emitted_by_another(
    airflow: Airflow, destination: RecordingDestination
):
    airflow.transport({"type": "http", "url": destination.url, "timeout": 60})
    destination.answer(delay=60, times=1)
    found = airflow.script("killed").result
    assert found == {"error": None, "same worker": False}
    assert len(destination.events) == 1


def test_the_last_event_of_a_run_waits_for_the_commit_of_its_end_but_not_for_ever(airflow: Airflow):
    found = airflow.script("settled").result
    assert not found["over before the commit"]
    assert found["over after the commit"]
    assert found["never committed"][1] >= 0.9
    assert found["long ago"][0] == found["no such run"][0] == 1
    assert found["another event"][0] == 0
