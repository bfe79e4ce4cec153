"""What is missing of a run, and which events a run has: rules without a database and without an outbox."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from keepline import __version__
from keepline.airflow.reconcile import facet
from keepline.airflow.reconcile.deciding import NOTHING, Decision, Emission, Expected, Kind, Window, decide
from keepline.airflow.reconcile.expecting import Due, RunRow, TryRow, due_of_run, due_of_tries
from keepline.airflow.reconcile.range import GRACE, window_for
from keepline.airflow.reconcile.report import Report
from keepline.errors import ReconcileError
from keepline.outbox.known import Known, Reach

WINDOW = Window(since=100.0, until=200.0, settled=200.0)
ENDED = Expected("run", "job", "success", start_at=110.0, end_at=120.0, end=Kind.COMPLETE)
RUNNING = Expected("run", "job", "running", start_at=110.0, end_at=None, end=None)

START, COMPLETE = Emission(Kind.START), Emission(Kind.COMPLETE)
AGAIN = Emission(Kind.COMPLETE, repeated=True)


@pytest.mark.parametrize(
    ("expected", "known", "decision"),
    [
        (ENDED, Known(start=1, end=2), NOTHING),
        (ENDED, Known(), Decision((Kind.START, Kind.COMPLETE), (START, COMPLETE))),
        (ENDED, Known(start=1), Decision((Kind.COMPLETE,), (COMPLETE,))),
        # A START behind the end would set the run back: the end follows it again.
        (ENDED, Known(end=1), Decision((Kind.START,), (START, AGAIN))),
        (ENDED, Known(start=2, end=1), Decision((), (AGAIN,))),
        (RUNNING, Known(), Decision((Kind.START,), (START,))),
        (RUNNING, Known(start=1), NOTHING),
        # The outbox knows better: the database is about to say so.
        (RUNNING, Known(end=1), NOTHING),
        (RUNNING, Known(start=1, end=2), NOTHING),
    ],
)
def test_what_is_missing_is_emitted_and_the_end_comes_last(
    expected: Expected, known: Known, decision: Decision
) -> None:
    assert decide(expected, known, WINDOW) == decision


def test_an_emission_that_was_cut_off_is_completed_by_the_next_reconciliation() -> None:
    # The START was emitted, and the end that is to follow it wasn't.
    assert decide(ENDED, Known(start=2, end=1), WINDOW).emit == (AGAIN,)
    assert decide(ENDED, Known(start=1), WINDOW).emit == (COMPLETE,)


def test_events_outside_of_the_window_are_left_alone() -> None:
    early = replace(ENDED, start_at=90.0)
    assert decide(early, Known(), WINDOW).emit == (COMPLETE,)
    assert decide(replace(early, end_at=95.0), Known(), WINDOW) is NOTHING
    assert decide(replace(RUNNING, start_at=201.0), Known(), WINDOW) is NOTHING
    assert decide(replace(RUNNING, start_at=90.0), Known(), WINDOW) is NOTHING


def test_what_may_still_be_on_its_way_is_left_alone() -> None:
    assert decide(replace(ENDED, end_at=201.0), Known(), WINDOW) is NOTHING
    assert decide(replace(ENDED, end_at=201.0), Known(start=1), WINDOW) is NOTHING


def test_a_run_that_ended_after_the_window_gets_its_end_with_its_start() -> None:
    # Nothing else would end it.
    window = Window(since=100.0, until=115.0, settled=200.0)
    assert decide(ENDED, Known(), window).emit == (START, COMPLETE)
    assert decide(ENDED, Known(end=1), window).emit == (START, AGAIN)
    assert decide(ENDED, Known(start=1), window) is NOTHING


T0 = datetime(2026, 1, 1, tzinfo=timezone.utc)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def since(seconds: float) -> float:
    return at(seconds).timestamp()


def a_run(state: str, *, start: float | None = 1.0, end: float | None = 2.0) -> RunRow:
    return RunRow(
        1,
        "dag",
        "run",
        state,
        None if start is None else at(start),
        None if end is None else at(end),
        T0,
        0,
    )


def a_try(
    state: str,
    *,
    number: int = 1,
    start: float | None = 1.0,
    end: float | None = 2.0,
    host: str = "host",
    past: bool = False,
) -> TryRow:
    return TryRow(
        "dag",
        "run",
        "task",
        -1,
        number,
        state,
        None if start is None else at(start),
        None if end is None else at(end),
        host,
        None,
        past,
    )


def due(*rows: TryRow, ends_skipped: bool = True) -> list[tuple[int, Due]]:
    return [(row.number, one) for row, one in due_of_tries(rows, ends_skipped=ends_skipped)]


def test_a_dag_run_has_a_start_once_it_runs_and_an_end_once_it_has_ended() -> None:
    assert due_of_run(a_run("success")) == Due(since(1), since(2), Kind.COMPLETE)
    assert due_of_run(a_run("failed")) == Due(since(1), since(2), Kind.FAIL)
    # The end of the life before it was cleared.
    assert due_of_run(a_run("running")) == Due(since(1), None, None)
    assert due_of_run(a_run("queued")) == Due(None, None, None)
    # Set to failed while it waited.
    assert due_of_run(a_run("failed", start=None)) == Due(None, since(2), Kind.FAIL)


@pytest.mark.parametrize(
    ("state", "end"),
    [
        ("success", Kind.COMPLETE),
        ("failed", Kind.FAIL),
        ("up_for_retry", Kind.FAIL),
        ("skipped", Kind.COMPLETE),
        ("running", None),
        ("restarting", None),
        ("deferred", None),
        ("up_for_reschedule", None),
        ("queued", None),
        ("scheduled", None),
    ],
)
def test_a_try_whose_process_began_has_a_start_and_the_end_of_its_state(state: str, end: Kind | None) -> None:
    expected = Due(since(1), since(2) if end else None, end)
    assert due(a_try(state)) == [(1, expected)]


def test_a_task_that_skips_itself_has_an_end_only_where_airflow_and_the_provider_know_one() -> None:
    assert due(a_try("skipped"), ends_skipped=False) == [(1, Due(since(1), None, None))]


@pytest.mark.parametrize("state", ["success", "skipped", "upstream_failed", "removed", "queued", ""])
def test_a_try_of_which_no_process_began_has_no_events(state: str) -> None:
    assert due(a_try(state, host="")) == []


def test_a_try_that_failed_on_its_way_to_a_process_has_an_end_alone() -> None:
    assert due(a_try("failed", host="")) == [(1, Due(None, since(2), Kind.FAIL))]
    # Set to failed before it was ever scheduled.
    assert due(a_try("failed", host="", number=0)) == []
    # Cleared while it waited: Airflow's history calls that failed.
    assert due(a_try("failed", host="", past=True), a_try("", host="")) == []


def test_each_try_has_its_own_events() -> None:
    first = a_try("failed", past=True)
    second = a_try("success", number=2, start=3.0, end=4.0)
    assert due(second, first) == [
        (1, Due(since(1), since(2), Kind.FAIL)),
        (2, Due(since(3), since(4), Kind.COMPLETE)),
    ]


def test_a_try_that_waits_for_the_next_one_is_counted_once() -> None:
    failed = Due(since(1), since(2), Kind.FAIL)
    assert due(a_try("up_for_retry"), a_try("failed", past=True)) == [(1, failed)]
    # Cleared, and skipped or failed by what stands before it in the next life of its DAG run.
    assert due(a_try("upstream_failed"), a_try("failed", past=True)) == [(1, failed)]
    assert due(a_try("skipped"), a_try("failed", past=True)) == [(1, failed)]


def test_a_try_that_has_only_the_traces_of_the_one_before_has_not_begun() -> None:
    first = a_try("failed", past=True)
    assert due(first, a_try("queued", number=2)) == [(1, Due(since(1), since(2), Kind.FAIL))]
    assert due(first, a_try("failed", number=2, end=5.0))[1] == (2, Due(None, since(5), Kind.FAIL))


NOW = 10_000.0


def test_the_window_reaches_from_what_the_outbox_knows_to_a_minute_ago() -> None:
    window = window_for(Reach(9_000.0, True), None, None, NOW)
    assert window == Window(9_000.0, NOW - GRACE, NOW - GRACE)
    assert window_for(Reach(9_000.0, True), 9_500.0, 9_600.0, NOW) == Window(9_500.0, 9_600.0, NOW - GRACE)
    assert window_for(Reach(9_000.0, True), 9_500.0, NOW, NOW).until == NOW - GRACE


def test_what_the_outbox_has_forgotten_can_not_be_reconciled() -> None:
    with pytest.raises(ReconcileError, match="`retention`"):
        window_for(Reach(9_000.0, True), 8_000.0, None, NOW)
    # Where nothing was forgotten, nothing is known to have been there.
    assert window_for(Reach(9_000.0, False), 8_000.0, None, NOW).since == 8_000.0


def test_an_outbox_without_events_has_to_be_told_since_when() -> None:
    with pytest.raises(ReconcileError, match="--from"):
        window_for(Reach(None, False), None, None, NOW)
    assert window_for(Reach(None, False), 8_000.0, None, NOW).since == 8_000.0


def test_the_report_counts_by_dag_and_type_and_keeps_a_few_failures() -> None:
    report = Report(False, 1.0, 2.0)
    report.decided("a", Decision((Kind.START, Kind.FAIL), ()))
    report.decided("b", Decision((Kind.START,), ()))
    for number in range(30):
        report.could_not(f"START of {number}", ReconcileError("no"))
    document = report.document()
    assert document["missing"] == {"START": 2, "FAIL": 1}
    assert document["dags"] == {"a": {"START": 1, "FAIL": 1}, "b": {"START": 1}}
    assert (document["runs"], document["failed"], len(document["failures"])) == (2, 30, 20)


def test_the_facet_points_to_the_schema_that_is_shipped_and_has_its_fields() -> None:
    one = facet.KeeplineReconciledRunFacet("now", ["START"], False, "so", "success", producer=facet.PRODUCER)
    where = Path(facet.__file__).with_name(facet.SCHEMA_FILE)
    assert one._schemaURL == f"pkg:pypi/keepline@{__version__}#keepline/airflow/reconcile/{where.name}"
    schema = json.loads(where.read_text())
    described = schema["$defs"]["KeeplineReconciledRunFacet"]["allOf"][1]["properties"]
    assert set(described) == set(one._additional_skip_redact)
    assert set(schema["properties"]) == {facet.NAME}
