"""What a scheduler's log says of Keepline's failures: what Airflow is told to log, once, and no secret."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.integration.airflow_support import KEEPLINE, Airflow, airflow, end_scheduler

__all__ = ["airflow"]

KEY = "a-key-that-nobody-may-read"
FAILURES = ("keepline can't look after the relay", "keepline's metrics lack the outbox")
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
        deadline = time.monotonic() + STARTUP_SECONDS
        while not told():
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)
        end_scheduler(scheduler)
    text = log.read_text()
    lines = text.splitlines()
    for failure in FAILURES:
        ((number, line),) = ((number, line) for number, line in enumerate(lines) if failure in line)
        assert any("The failure was" in later for later in lines[number:]) == (level == "DEBUG")
        assert "(OutboxUnavailable: can't " in line
        assert "; this has no impact on task status" in line
        assert "warning" in line.lower()
    assert ("OutboxUnavailable: can't open" in text.partition("Traceback")[2]) == (level == "DEBUG")
    assert KEY not in text
