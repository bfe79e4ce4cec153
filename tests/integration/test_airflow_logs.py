"""What a scheduler's log says of Keepline's failures: what Airflow is told to log, once, and no secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.integration.airflow_support import KEEPLINE, Airflow, airflow
from tests.support_relay import until

__all__ = ["airflow"]

KEY = "a-key-that-nobody-may-read"
FAILURES = ("OpenLineage hook on_starting failed", "keepline's metrics lack the outbox")
STARTUP_SECONDS = 120.0


@pytest.mark.parametrize("level", ["WARNING", "DEBUG"])
def test_a_failure_is_one_warning_and_its_traceback_is_for_who_asks(
    level: str, airflow: Airflow, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    auth = {"type": "api_key", "apiKey": KEY}
    legs = {"trove": {"type": "http", "url": "http://127.0.0.1:1", "auth": auth}}
    airflow.transport({"type": KEEPLINE, "outbox": str(tmp_path / "file" / "outbox"), "transports": legs})
    airflow.own_database()
    airflow.env |= {
        "AIRFLOW__LOGGING__LOGGING_LEVEL": level,
        "AIRFLOW__KEEPLINE__METRICS_INTERVAL": "1",
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
        "AIRFLOW__METRICS__STATSD_PORT": "9",
    }
    log = airflow.home / "background.log"
    # Of each failure, what is logged last.
    last = "The failure was" if level == "DEBUG" else FAILURES[-1]

    def told() -> bool:
        _, failure, rest = log.read_text().partition(FAILURES[-1])
        return last in failure + rest

    with airflow.background("airflow", "scheduler") as scheduler:
        until(told, STARTUP_SECONDS)
        scheduler.terminate()
        scheduler.wait(60)
    text = log.read_text()
    for failure in FAILURES:
        (line,) = (line for line in text.splitlines() if failure in line)
        assert "(OutboxUnavailable: can't " in line
        assert "; this has no impact on task status" in line
        assert "warning" in line.lower()
    assert len(re.findall("The failure was", text)) == (len(FAILURES) if level == "DEBUG" else 0)
    assert KEY not in text
