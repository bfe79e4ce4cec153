from __future__ import annotations

from tests.integration.airflow_support import KEEPLINE, Airflow, airflow

from keepline.demo.destination import RecordingDestination

__all__ = ["airflow"]


def test_a_metric_that_fails_costs_no_event(airflow: Airflow):
    ways = ["when it is made", "when it begins", "when it ends"]
    with RecordingDestination() as destination:
        leg = {"type": "http", "url": destination.url}
        airflow.transport({"type": KEEPLINE, "relay": "inline", "transports": {"a": leg}})
        outcomes = airflow.variants("measuring", {way: ([way], {}) for way in ways})
        destination.wait_for(lambda d: len(d.events) == len(ways), timeout=60)
        assert sorted(event["job"]["name"] for event in destination.events) == sorted(ways)
    for outcome in outcomes.values():
        assert len(outcome.lines("A metric of the OpenLineage provider's was left out (ValueError)")) == 1
        assert outcome.lines("Failed to emit") == []
