from __future__ import annotations

import pytest
from tests.integration.airflow_support import KEEPLINE, Airflow, airflow

__all__ = ["airflow"]

TIMEOUT = 1.0
MARGIN = 1.5  # seconds: the pool takes up to one more to kill and reap


@pytest.fixture(autouse=True)
def transport(airflow: Airflow) -> None:
    airflow.transport({"type": KEEPLINE, "transports": {"a": {"type": "http", "url": "http://127.0.0.1:9"}}})


def test_stopping_is_bounded_and_safe_whatever_the_workers_do_and_a_later_event_is_emitted(airflow: Airflow):
    airflow.env["AIRFLOW__KEEPLINE__STOP_TIMEOUT"] = str(TIMEOUT)
    outcome = airflow.script("stopping")
    found = outcome.result

    assert found["with nothing to stop"] < 0.1
    assert found["pools of many threads"] == 1
    assert found["idle"] < TIMEOUT
    assert found["twice"] < 0.1
    assert found["a forked child stops"]
    assert found["its parent's worker goes on"]
    assert found["off the main thread"] < TIMEOUT
    assert TIMEOUT <= found["a worker hangs"] < TIMEOUT + MARGIN
    assert not found["it lives"]
    assert found["a later event is emitted"]
    assert found["a worker is stopped by a signal"] < TIMEOUT + MARGIN

    assert found["spools left"] == 1
    (left,) = outcome.lines("not emitted yet")
    assert "2 OpenLineage events" in left
    assert "stop_timeout" in left
    assert "/outbox" in left or "/spool/" in left
    assert not outcome.lines("Traceback")


def test_wrong_options_are_named_and_neither_stops_nor_holds_up_anything(airflow: Airflow):
    airflow.env["AIRFLOW__KEEPLINE__STOP_TIMEOUT"] = "abc"
    airflow.env["AIRFLOW__KEEPLINE__CALL_TIMEOUT"] = "0"
    airflow.env["AIRFLOW__OPENLINEAGE__DAG_STATE_CHANGE_PROCESS_POOL_SIZE"] = "many"
    outcome = airflow.script("stopping", "idle")

    assert outcome.result["idle"] < 5.0
    for said in (
        "[keepline] stop_timeout` is 'abc', not a number of seconds, 0 or more; 5 is used",
        "[keepline] call_timeout` is '0', not a number of seconds, 1 or more; 60 is used",
        "dag_state_change_process_pool_size can't be used",
    ):
        assert outcome.lines(said)
    assert not outcome.lines("Traceback")
