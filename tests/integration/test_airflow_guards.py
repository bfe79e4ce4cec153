from __future__ import annotations

import shutil

import pytest
from tests.integration.airflow_support import KEEPLINE, Airflow, airflow

__all__ = ["airflow"]

PROVIDER = {"AIRFLOW__KEEPLINE__TASK_EMISSION": "provider"}  # which forks tasks


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


def test_a_forked_child_never_comes_out_of_a_hook(airflow: Airflow):
    wrong = {what: ([what], PROVIDER) for what in ("before the event", "an exit", "a log handler too")}
    for what, outcome in airflow.variants("forks", wrong).items():
        assert outcome.result["came out"] == [True], what
        assert outcome.result["raised"] is None
        assert len(outcome.lines("no impact on")) == 1


def test_what_ends_a_task_or_a_scheduler_is_not_swallowed_by_a_hook(airflow: Airflow):
    limit, end = ["a time limit"], (["an end of the scheduler"], {})
    variants = {"limit": (limit, {}), "limit of a fork": (limit, PROVIDER), "end": end}
    outcomes = airflow.variants("forks", variants)
    waited, forked, stopped = (outcomes[name].result for name in variants)
    assert (waited["came out"], waited["raised"]) == ([True], "AirflowTaskTimeout")
    assert forked == {"came out": [True], "raised": "AirflowTaskTimeout", "child lives": False}
    assert stopped["raised"] == "SystemExit"
