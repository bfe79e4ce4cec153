"""``keepline trace`` and ``keepline runs``, as somebody types them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support_cli import EVENT_TIME, Keepline, configured, document, emit, run, said, wait_settled
from tests.support_relay import leg, status_of, until

from keepline.demo.destination import RecordingDestination

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

Deliver = Callable[..., Any]

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


def test_a_run_that_arrived_everywhere(
    keepline: Keepline,
    outbox: Path,
    destination: RecordingDestination,
    other: RecordingDestination,
    deliver: Deliver,
) -> None:
    deliver({"a": leg(destination), "other": leg(other)})
    emit(outbox, "1:START", "2:START", "1:COMPLETE")
    wait_settled(outbox)
    text = said(keepline("trace", run(1), "--outbox", outbox))
    expected = [
        f"run {run(1)}  job tests/etl",
        rf"  START     {EVENT_TIME}, appended {TIME}, event 1",
        rf"    a      delivered {TIME}, 1 try, HTTP 201",
        rf"    other  delivered {TIME}, 1 try, HTTP 201",
        rf"  COMPLETE  {EVENT_TIME}, appended {TIME}, event 3",
        rf"    a      delivered {TIME}, 1 try, HTTP 201",
        rf"    other  delivered {TIME}, 1 try, HTTP 201",
        rf"the outbox knows events since {TIME}",
    ]
    lines = text.splitlines()
    assert len(lines) == len(expected)
    assert all(re.fullmatch(pattern, line) for pattern, line in zip(expected, lines, strict=True)), text
    found = document(keepline("trace", run(1), "--json", "--outbox", outbox))
    (one,) = found["runs"]
    assert (one["run"], one["job_namespace"], one["job_name"]) == (run(1), "tests", "etl")
    assert [event["event"] for event in one["events"]] == [1, 3]
    assert {event["event_time"] for event in one["events"]} == {EVENT_TIME}
    delivery = one["events"][0]["deliveries"][0]
    assert delivery.keys() == {
        "destination", "state", "attempts", "status", "answer", "first_at", "ended_at", "why",
        "charged",
    }  # fmt: skip
    assert (delivery["destination"], delivery["state"], delivery["status"]) == ("a", "delivered", 201)
    assert time.time() - 60 < delivery["first_at"] <= delivery["ended_at"] <= time.time()
    assert found["known_since"] <= one["events"][0]["appended_at"]


def test_a_run_that_waits_for_a_destination_that_is_out(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    destination.answer(503, body=b"back soon")
    deliver({"a": leg(destination)})
    emit(outbox, "1:START")
    until(lambda: status_of(outbox, "a").state == "out" if (outbox / "ledger.db").exists() else False)
    text = said(keepline("trace", run(1), "--outbox", outbox), status=3)
    # The answer is said once.
    assert re.search(r"^    a  pending: out: HTTP 503: back soon; \d+ (try|tries)$", text, re.MULTILINE)
    (one,) = document(keepline("trace", run(1), "--json", "--outbox", outbox), status=3)["runs"]
    assert one["events"][0]["deliveries"][0]["state"] == "pending"


def test_a_run_with_a_dead_letter_until_that_is_discarded(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    destination.answer(422, times=1, body=b"no")
    deliver({"a": leg(destination)}, max_connections=1)
    emit(outbox, "1:START", "1:COMPLETE")
    wait_settled(outbox)
    assert re.search(
        rf"^    a  dead {TIME}, 1 try, HTTP 422: no$",
        said(keepline("trace", run(1), "--outbox", outbox), status=4),
        re.MULTILINE,
    )
    said(keepline("dead", "discard", "--all", "--yes", "--outbox", outbox))
    assert "    a  discarded " in said(keepline("trace", run(1), "--outbox", outbox), status=4)
    said(keepline("replay", "--state", "discarded", "--yes", "--outbox", outbox))
    said(keepline("trace", run(1), "--outbox", outbox))


def test_events_that_are_in_the_journal_still(keepline: Keepline, outbox: Path) -> None:
    emit(outbox, "1:START")
    text = said(keepline("trace", run(1), "--outbox", outbox), status=3)
    assert re.search(rf"^  START     {EVENT_TIME}, appended {TIME}, in the journal$", text, re.MULTILINE)
    assert re.search(r"^    pending: no relay has taken it in yet, for \d+ s$", text, re.MULTILINE)
    assert text.endswith("no relay runs; no destination is configured here\n")
    for relay, how in (("auto", "`keepline flush` starts one"), ("external", "`keepline relay` delivers")):
        settings = configured(outbox, {"a": leg("http://127.0.0.1:1")}, relay=relay)
        text = said(keepline("trace", run(1), OPENLINEAGE__TRANSPORT=settings), status=3)
        assert text.endswith(f"no relay runs; {how}\n")


def test_destinations_that_came_later_and_those_that_are_gone(
    keepline: Keepline,
    outbox: Path,
    destination: RecordingDestination,
    other: RecordingDestination,
    deliver: Deliver,
) -> None:
    destination.answer(503)
    relay = deliver({"old": leg(destination)})
    emit(outbox, "1:START")
    until(lambda: status_of(outbox, "old").state == "out" if (outbox / "ledger.db").exists() else False)
    relay.stop()
    deliver({"new": leg(other)})
    emit(outbox, "1:COMPLETE")
    until(lambda: status_of(outbox, "new").delivered == 1)
    text = said(keepline("trace", run(1), "--outbox", outbox), status=3)
    assert "    new  not for it: it wasn't configured then, or another destination took it\n" in text
    assert "    old  pending: it is out of the configuration" in text
    # What no destination that is left was to get.
    said(keepline("forget", "old", "--yes", "--outbox", outbox))
    said(keepline("trace", run(1), "--outbox", outbox), status=4)


def test_the_latest_runs_of_a_job(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    deliver({"a": leg(destination)})
    emit(outbox, "1:START", "2:START", "3:START")
    emit(outbox, "4:START", job="load")
    wait_settled(outbox)
    text = said(keepline("trace", "--job", "etl", "--limit", "2", "--outbox", outbox))
    assert re.findall("^run ([^ ]+)", text, re.MULTILINE) == [run(3), run(2)]
    text = said(keepline("trace", "--job", "tests/load", "--outbox", outbox))
    assert re.findall("^run ([^ ]+)", text, re.MULTILINE) == [run(4)]


def test_a_run_that_nothing_is_known_of(keepline: Keepline, outbox: Path) -> None:
    outbox.mkdir()
    words = ("--outbox", outbox)
    assert said(keepline("trace", "x\x1b", *words), status=1) == (
        "nothing is known of run x?; the outbox knows no event at all\n"
    )
    emit(outbox, "1:START")
    assert re.fullmatch(
        rf"nothing is known of job nil; the outbox knows events since {TIME}\n",
        said(keepline("trace", "--job", "nil", *words), status=1),
    )
    assert document(keepline("trace", "x", "--json", *words), status=1)["runs"] == []


def test_trace_has_to_be_told_what(keepline: Keepline, outbox: Path) -> None:
    assert "give a RUN_ID or --job" in said(keepline("trace"), status=2)
    assert "give only one of RUN_ID and --job" in said(keepline("trace", "x", "--job", "y"), status=2)


def test_runs_and_open_runs(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    relay = deliver({"a": leg(destination)})
    emit(outbox, "1:START", "2:START", "1:COMPLETE", "3:START")
    wait_settled(outbox)
    relay.stop()
    emit(outbox, "3:FAIL", "4:START", job="load")  # in the journal
    words = ("--outbox", outbox)
    lines = said(keepline("runs", *words)).splitlines()
    assert lines[0].split() == ["run", "job", "events", "first", "last", "last", "type", "age"]
    assert [line.split()[0] for line in lines[1:5]] == [run(4), run(3), run(1), run(2)]
    assert re.match(rf"{run(3)}  tests/load +2  {TIME}  {TIME}  FAIL +\d+ s$", lines[2])
    assert re.fullmatch(rf"the outbox knows events since {TIME}", lines[5])
    found = document(keepline("runs", "--open", "--json", *words))
    assert [one["run"] for one in found["runs"]] == [run(2), run(4)]
    assert found["runs"][0].keys() == {
        "run", "job_namespace", "job_name", "events", "first_at", "last_at", "last_type", "open",
    }  # fmt: skip
    text = said(keepline("runs", "--open", "--limit", "1", "--since", "1h", *words))
    assert text.splitlines()[2] == "and 1 more (--limit)"
    assert said(keepline("runs", "--open", "--job", "nil", *words)).splitlines()[0] == "no open runs"
    assert said(keepline("runs", "--job", "nil", *words)).splitlines()[0] == "no runs"
