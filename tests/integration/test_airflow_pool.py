from __future__ import annotations

import json
from typing import Any

import pytest
from tests.integration.airflow_support import KEEPLINE, Airflow, Variant, airflow

from keepline.demo.destination import RecordingDestination

__all__ = ["airflow"]

ROUNDS = 10
EVENTS = 5 * ROUNDS


def http(destination: RecordingDestination) -> dict[str, Any]:
    return {"type": "http", "url": destination.url, "endpoint": "http"}


def datadog(destination: RecordingDestination) -> dict[str, Any]:
    return {"type": "datadog", "site": destination.url, "apiKey": "key"}


TRANSPORTS = {
    "keepline": lambda to: {"type": KEEPLINE, "transports": {"trove": http(to), "dog": datadog(to)}},
    "composite": lambda to: {"type": "composite", "transports": {"trove": http(to), "dog": datadog(to)}},
    "datadog": datadog,
    "http": http,
}


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_a_pool_worker_has_one_client_for_life(
    airflow: Airflow, destination: RecordingDestination, kind: str
):
    airflow.transport(TRANSPORTS[kind](destination))
    outcome = airflow.script("events", ROUNDS, "run-0000")
    found = outcome.result

    assert (found["events"], found["errors"]) == (EVENTS, [])
    assert found["workers"] == [{"adapter": 1, "client": 1, "close": 1}]
    asynchronous = kind in ("composite", "datadog")  # up to client 1.53 the datadog transport has a thread
    assert found["threads"][0] in ((1, 2) if asynchronous else (1,))
    assert found["alive"] == []
    legs = 2 if kind in ("keepline", "composite") else 1
    destination.wait_for(lambda it: len(it.events) == legs * EVENTS, 30)
    assert not outcome.lines("Traceback")


def events_of_five_hooks(airflow: Airflow, to: RecordingDestination) -> list[dict[str, Any]]:
    to.clear()
    outcome = airflow.script("events", 1, "run-0001")
    to.wait_for(lambda it: len(it.events) == 5, 30)
    assert outcome.result["errors"] == []
    # A relay keeps the order of each run, and no more.
    return sorted(map(without_times, to.events), key=lambda event: event["run"]["runId"])


def without_times(event: dict[str, Any]) -> dict[str, Any]:
    if event["job"]["facets"]["jobType"]["jobType"] == "TASK":  # changed by hand, just now
        event.pop("eventTime")
    return event


def test_events_equal_those_of_the_providers_own_pool(airflow: Airflow, destination: RecordingDestination):
    airflow.env["PYTHONHASHSEED"] = "0"  # the provider has a list made of a set in its events
    airflow.transport(http(destination))
    airflow.env["AIRFLOW__KEEPLINE__DISABLED"] = "True"
    expected = events_of_five_hooks(airflow, destination)

    airflow.transport({"type": KEEPLINE, "transports": {"one": http(destination)}})
    airflow.env["AIRFLOW__KEEPLINE__DISABLED"] = "False"
    assert events_of_five_hooks(airflow, destination) == expected


def test_what_a_killed_scheduler_had_submitted_is_emitted_when_the_next_starts(
    airflow: Airflow, destination: RecordingDestination
):
    outbox, elsewhere = airflow.home / "outbox", airflow.home / "elsewhere"
    keepline = json.dumps({"type": KEEPLINE, "outbox": str(outbox), "transports": {"one": http(destination)}})
    variable = "AIRFLOW__OPENLINEAGE__TRANSPORT"
    places: dict[str, Variant] = {
        str(outbox / "spool"): ([], {variable: keepline}),
        str(airflow.home / "keepline" / "spool"): ([], {variable: json.dumps(http(destination))}),
        str(elsewhere): ([], {variable: keepline, "AIRFLOW__KEEPLINE__SPOOL": str(elsewhere)}),
    }
    for place, outcome in airflow.variants("adopting", places).items():
        found = outcome.result
        assert found.pop("seconds") < 5
        assert found == {"folder": place, "before": 1, "after": True}
        assert outcome.lines("2 events that an earlier process had submitted are emitted now")
    destination.wait_for(lambda it: len(it.events) == 2 * len(places), 30)
    kinds = [event["eventType"] for event in destination.events]
    assert sorted(kinds) == ["COMPLETE", "COMPLETE", "COMPLETE", "START", "START", "START"]
