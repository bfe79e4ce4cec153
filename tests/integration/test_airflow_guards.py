from __future__ import annotations

import shutil

import pytest
from tests.integration.airflow_support import KEEPLINE, Airflow, airflow

__all__ = ["airflow"]


@pytest.fixture(autouse=True)
def transport(airflow: Airflow) -> None:
    airflow.transport({"type": KEEPLINE, "transports": {"a": {"type": "http", "url": "http://127.0.0.1:9"}}})


def test_a_hook_that_fails_returns_nothing_and_says_so_in_one_line(airflow: Airflow):
    database = airflow.home / "airflow.db"
    shutil.copy(airflow.database, database)
    airflow.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{database}"

    outcome = airflow.script("guards", str(database))
    assert len(outcome.result) == 6
    for what, (returned, records) in outcome.result.items():
        assert returned == [], what
        (warning, message, with_traceback), *others = records
        assert (warning, with_traceback) == ("WARNING", False), what
        assert "this has no impact on task status" in message
        assert "\n" not in message
        assert "s3cret" not in message
        assert [one[0] for one in others] == ["DEBUG"], what


@pytest.mark.parametrize("wrong", ["before the event", "an exit", "a log handler too"])
def test_a_forked_child_never_comes_out_of_a_hook(airflow: Airflow, wrong: str):
    outcome = airflow.script("forks", wrong)
    assert outcome.result["came out"] == [True]
    assert outcome.result["raised"] is None
    assert len(outcome.lines("no impact on")) == 1


def test_a_time_limit_ends_the_waiting_for_a_forked_child_and_reaches_the_task(airflow: Airflow):
    found = airflow.script("forks", "a time limit").result
    assert found == {"came out": [True], "raised": "AirflowTaskTimeout", "child lives": False}


def test_the_end_of_a_scheduler_is_not_swallowed_by_a_hook(airflow: Airflow):
    found = airflow.script("forks", "an end of the scheduler").result
    assert found["raised"] == "SystemExit"
