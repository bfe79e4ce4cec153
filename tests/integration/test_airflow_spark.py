from __future__ import annotations

from typing import Any

from tests.integration.airflow_support import KEEPLINE, Airflow, airflow

__all__ = ["airflow"]

PLAIN = {"type": "http", "url": "http://one.invalid:5000"}
FULL = {
    "type": "http",
    "url": "https://two.invalid",
    "endpoint": "events",
    "timeout": 7,
    "compression": "gzip",
    "custom_headers": {"X-One": "1", "x-two": "zwei"},
    "auth": {"type": "api_key", "apiKey": "s3cret"},
}
DATADOG = {"type": "datadog", "site": "http://dog.invalid", "apiKey": "k2"}
CONSOLE = {"type": "console"}

CASES = [
    {"transports": {"one": PLAIN}},
    {"transports": {"two": FULL, "dog": DATADOG, "one": PLAIN}},
    {"transports": [{**FULL, "name": "two"}, {**DATADOG, "name": "dog"}, {**PLAIN, "name": "one"}]},
    {"transports": [FULL, DATADOG]},  # without names
    {"transports": [FULL]},
    {
        "transports": {"one": {**PLAIN, "priority": 1}, "two": {**FULL, "priority": 2}},
        "sort_transports": True,
    },
    {"transports": {"one": PLAIN, "two": FULL}, "continue_on_failure": False},
    {"transports": {"dog": DATADOG, "out": CONSOLE}},
]


def injected(airflow: Airflow, kind: str, cases: list[dict[str, Any]]) -> list[dict[str, str]]:
    airflow.transport({"type": KEEPLINE, "transports": {"one": PLAIN}})
    properties: list[dict[str, str]] = airflow.script(
        "spark", [{"type": kind, **case} for case in cases]
    ).result
    return properties


def test_spark_jobs_get_the_same_transports_as_from_a_composite(airflow: Airflow):
    expected = injected(airflow, "composite", CASES)
    assert injected(airflow, KEEPLINE, CASES) == expected

    assert expected[1]["spark.openlineage.transport.transports.two.auth.apiKey"] == "Bearer s3cret"
    assert expected[-1] == {"spark.app.name": "x"}
