"""What the parity check takes for equal, and what it doesn't."""

from __future__ import annotations

from typing import Any

import pytest
from parity.capture import Capture
from parity.differ import ABSENT, Difference, compare, differences
from parity.normalise import Normaliser, derived, run_names
from parity.report import Outcome, document, mismatches, table
from parity.verdict import Verdict, judge

DAG_RUN = "018f3b21-5a40-7a6e-a1f2-0d0c1b2a3f4e"
TASK_RUN = "018f3b21-5a40-7b7f-b2e3-1e1d2c3b4a5f"
BEGAN, ENDED = 1_750_000_000.0, 1_750_000_600.0  # 2025-06-15T15:06:40+00:00, and ten minutes later
DURING = "2025-06-15T15:08:01.5+00:00"


def task_event(**more: Any) -> dict[str, Any]:
    return {
        "eventType": "START",
        "eventTime": DURING,
        "run": {
            "runId": TASK_RUN,
            "facets": {
                "airflow": {
                    "dagRun": {"run_id": "r-1", "logical_date": "2024-05-01T00:00:00+00:00"},
                    "taskInstance": {"try_number": 1, "duration": 0.25},
                },
                "parent": {"run": {"runId": DAG_RUN}, "job": {"name": "a_dag"}},
            },
        },
        "job": {"namespace": "parity", "name": "a_dag.a_task"},
        **more,
    }


def dag_event(run_id: str = DAG_RUN, when: str = DURING) -> dict[str, Any]:
    facets = {"airflowDagRun": {"dagRun": {"run_id": "r-1"}}}
    return {
        "eventType": "START",
        "eventTime": when,
        "run": {"runId": run_id, "facets": facets},
        "job": {"namespace": "parity", "name": "a_dag"},
    }


def normaliser(*events: dict[str, Any]) -> Normaliser:
    return Normaliser.of(events, BEGAN, ENDED)


def a_capture(*events: dict[str, Any]) -> Capture:
    return Capture({"http": list(events), "datadog": list(events)}, BEGAN, ENDED, [])


def test_equal_events_in_another_order_do_not_differ() -> None:
    one, other = {"eventType": "START", "x": 1}, {"eventType": "COMPLETE", "x": [1, {"y": None}]}
    assert compare([one, other], [dict(reversed(other.items())), one]) == []


def test_an_event_that_came_twice_is_extra() -> None:
    (found,) = compare([dag_event()], [dag_event(), dag_event()])
    assert (found.what, found.event) == ("extra", f"START of {DAG_RUN}")


def test_an_event_that_did_not_come_is_missing() -> None:
    (found,) = compare([dag_event(), task_event()], [dag_event()])
    assert (found.what, found.event) == ("missing", f"START of {TASK_RUN}")


def test_a_difference_is_told_with_its_path_and_both_values() -> None:
    (found,) = compare([task_event(tags=["a", "b"])], [task_event(tags=["a", "c", None])])
    assert found.what == "differs"
    assert found.differences == (Difference("tags[1]", "b", "c"), Difference("tags[2]", ABSENT, None))
    assert str(found).splitlines()[1:] == [
        '    tags[1]: upstream "b", keepline "c"',
        "    tags[2]: upstream (absent), keepline null",
    ]


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1, 1.0), (0, False), (None, ""), ([], {}), ("1", 1), ({"a": None}, {})]
)
def test_values_that_are_alike_are_not_equal(one: object, other: object) -> None:
    assert list(differences({"x": one}, {"x": other}))


def test_events_are_paired_with_what_is_most_like_them() -> None:
    upstream = [task_event(x=1, y=1), task_event(x=2, y=2)]
    found = compare(upstream, [task_event(x=2, y=3), task_event(x=1, y=4)])
    assert [[one.path for one in pair.differences] for pair in found] == [["y"], ["y"]]


def test_times_of_the_check_are_hidden_and_dates_that_it_gives_are_not() -> None:
    normal = normaliser(task_event()).event(task_event())
    assert normal["eventTime"] == "<time+00:00>"
    assert normal["run"]["facets"]["airflow"]["dagRun"]["logical_date"] == "2024-05-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("manual__2025-06-15T15:08:01.500000+00:00", "manual__<time+00:00>"),
        ("runs/manual__2025-06-15T15%3A08%3A01%2B00%3A00/tasks", "runs/manual__<time+00:00>/tasks"),
        ("2025-06-15 15:08:01Z", "<timeZ>"),
        ("2025-06-15T17:08:01+02:00", "<time+02:00>"),
        ("2025-06-15T15:08:01", "<time>"),
        ("2025-06-15T17:08:01+00:00", "2025-06-15T17:08:01+00:00"),
        ("asset_triggered__2025-06-15T15:08:01+00:00_QmqyMlr7", "asset_triggered__<time+00:00>_<random>"),
        ("Timeout, PID: 4711", "Timeout, PID: <pid>"),
        ("run duration of 20.25 seconds exceeds 5.0", "run duration of <seconds> exceeds 5.0"),
    ],
)
def test_a_text_is_normal_when_what_varies_is_out_of_it(text: str, normal: str) -> None:
    assert normaliser().text(text) == normal


def test_measured_seconds_are_hidden_but_not_whether_there_are_any() -> None:
    facets = {"taskInstance": {"duration": 1.5}, "tasksDuration": {"a": 2, "b": None}, "duration": 3.0}
    assert normaliser().event(facets) == {
        "taskInstance": {"duration": "<seconds>"},
        "tasksDuration": {"a": "<seconds>", "b": None},
        "duration": 3.0,
    }


def test_a_run_id_becomes_the_name_of_its_run_wherever_it_stands() -> None:
    one = normaliser(dag_event(), task_event())
    normal = one.event(task_event(text=f"parity/a_dag/{DAG_RUN}"))
    assert normal["run"]["runId"] == "<run a_dag.a_task r-1 try_number 1>"
    assert normal["run"]["facets"]["parent"]["run"]["runId"] == "<run a_dag r-1>"
    assert normal["text"] == "parity/a_dag/<run a_dag r-1>"


def test_an_id_of_no_run_stays_as_it_is() -> None:
    assert normaliser(task_event()).event(task_event())["run"]["facets"]["parent"]["run"]["runId"] == DAG_RUN


def test_runs_of_one_name_are_numbered_in_the_order_of_their_beginnings() -> None:
    later = dag_event(TASK_RUN, "2025-06-15T15:08:02+00:00")
    names = run_names([later, dag_event()], normaliser())
    assert names == {DAG_RUN: "<run a_dag r-1 no. 1>", TASK_RUN: "<run a_dag r-1 no. 2>"}


def test_ids_that_the_provider_derives_have_to_be_the_same() -> None:
    ours = task_event()
    ours["run"] = {**ours["run"], "runId": TASK_RUN.replace("5f", "60")}
    (verdict,) = judge(a_capture(task_event()), a_capture(ours))
    assert [one.differences[0].path for _, one in verdict.mismatches] == ["run.runId", "run.runId"]
    (verdict,) = judge(a_capture(task_event()), a_capture(ours), dated_by_airflow={"a_dag"})
    assert not verdict.mismatches


@pytest.mark.parametrize(
    ("name", "fixed"),
    [
        ("<run a_dag r-1>", True),
        ("<run a_dag.a_task r-1 try_number 1>", True),
        ("<run consumer.a_task r-1>", False),
        ("<run a_dag.a_task.query.1>", False),
        ("<run a_dag.a_task.manual_query.2>", False),
    ],
)
def test_an_id_is_derived_when_its_date_was_given(name: str, fixed: bool) -> None:
    assert derived(name, {"consumer"}) is fixed


def test_each_dag_has_a_verdict_for_both_legs() -> None:
    upstream, keepline = a_capture(dag_event(), task_event()), a_capture(dag_event())
    verdict, silent = judge(upstream, keepline, silent={"silent"})
    assert (silent.upstream, silent.keepline, silent.mismatches) == ((0, 0), (0, 0), ())
    assert (verdict.dag, verdict.upstream, verdict.keepline) == ("a_dag", (2, 2), (1, 1))
    assert [(leg, one.what) for leg, one in verdict.mismatches] == [
        ("http", "missing"),
        ("datadog", "missing"),
    ]


def test_what_a_run_ended_from_outside_tells_of_its_tasks_is_a_matter_of_chance() -> None:
    captures = []
    for state in ("running", "skipped"):
        event = dag_event()
        event["run"]["facets"]["airflowState"] = {"dagRunState": "failed", "tasksState": {"a_task": state}}
        captures.append(a_capture(event))
    (verdict,) = judge(*captures)
    assert len(verdict.mismatches) == 2
    (verdict,) = judge(*captures, ended_from_outside={"a_dag"})
    assert not verdict.mismatches


def test_what_is_written_has_the_counts_and_the_differences() -> None:
    verdicts = judge(a_capture(dag_event()), a_capture(task_event()))
    outcome = Outcome({"apache-airflow": "3.3.2"}, 12.3, verdicts, {"keepline": ["2 deliveries are pending"]})
    assert not outcome.equal
    assert table(outcome)[2:] == ["| a_dag | 1, 1 | 1, 1 | 4 |", "| all | 1, 1 | 1, 1 | 4 |"]
    page = document({"3.3.2": outcome})
    assert "apache-airflow 3.3.2" in page
    assert "keepline: 2 deliveries are pending." in page
    assert all(line in page for line in mismatches(verdicts))


def test_nothing_to_compare_is_not_equal() -> None:
    assert not Outcome({}, 0.0, [], {}).equal
    assert Outcome({}, 0.0, [Verdict("a_dag", (1, 1), (1, 1), ())], {}).equal
