"""``keepline dead``, as somebody types it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support_cli import Keepline, all_counted, configured, document, emit, run, said, wait_settled
from tests.support_relay import SOON, leg, names_in, relay_of, status_of, until

from keepline.demo.destination import RecordingDestination

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

Deliver = Callable[..., Any]

LETTER = {
    "id": str,
    "destination": str,
    "event": int,
    "status": (int, type(None)),
    "answer": str,
    "attempts": int,
    "first_at": (float, type(None)),
    "ended_at": float,
    "appended_at": float,
    "event_type": str,
    "run": str,
    "job_namespace": str,
    "job_name": str,
}


@pytest.fixture
def three_dead(outbox: Path, destination: RecordingDestination, deliver: Deliver) -> Path:
    """An outbox with three dead letters and a delivered event, and a relay."""
    destination.answer(422, times=3, body=b"no [bold]such[/bold] field\x1b[2J")
    deliver({"a": leg(destination)}, max_connections=1)
    emit(outbox, "1:START", "2:START", "3:START")
    until(lambda: status_of(outbox, "a").dead == 3)
    emit(outbox, "1:COMPLETE", job="load")
    until(lambda: status_of(outbox, "a").delivered == 1)
    return outbox


def test_list_without_dead_letters(keepline: Keepline, outbox: Path) -> None:
    emit(outbox, "1:START")
    assert said(keepline("dead", "list", "--outbox", outbox)) == "no dead letters\n"
    assert document(keepline("dead", "list", "--json", "--outbox", outbox)) == {"total": 0, "dead": []}


def test_list_shows_what_was_given_up_and_why(keepline: Keepline, three_dead: Path) -> None:
    text = said(keepline("dead", "list", "--outbox", three_dead))
    titles, *lines = text.splitlines()
    assert titles.split() == ["dead", "letter", "type", "job", "run", "tries", "given", "up", "answer"]
    assert [line.split()[0] for line in lines] == ["3@a", "2@a", "1@a"]
    pattern = (
        rf"1@a +START +tests/etl +{run(1)} +1 +\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d +HTTP 422: no \[bold\]such"
    )
    assert re.match(pattern, lines[2])
    assert "\x1b" not in text
    found = document(keepline("dead", "list", "--json", "--outbox", three_dead))
    assert found["total"] == 3
    for one in found["dead"]:
        assert one.keys() == LETTER.keys()
        assert all(isinstance(one[key], kind) for key, kind in LETTER.items())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["--limit", "2"], ["3@a", "2@a"]),
        (["--run", run(2)], ["2@a"]),
        (["--job", "etl"], ["3@a", "2@a", "1@a"]),
        (["--job", "load"], []),
        (["--destination", "a", "--since", "1h", "--until", "2100-01-01"], ["3@a", "2@a", "1@a"]),
        (["--since", "2100-01-01T00:00Z"], []),
        (["--until", "1 h"], []),
    ],
)
def test_list_goes_by_filters(words: list[str], ids: list[str], keepline: Keepline, three_dead: Path) -> None:
    found = document(keepline("dead", "list", "--json", *words, "--outbox", three_dead))
    assert [one["id"] for one in found["dead"]] == ids
    if "--limit" in words:
        assert found["total"] == 3
        assert "and 1 more (--limit)" in said(keepline("dead", "list", *words, "--outbox", three_dead))


def test_show_tells_all_that_is_kept_with_the_event(keepline: Keepline, three_dead: Path) -> None:
    text = said(keepline("dead", "show", "2@a", "--outbox", three_dead))
    for line in (
        "dead letter  2@a",
        "destination  a",
        "status       422",
        "answer       HTTP 422: no [bold]such[/bold] field?[2J",
        "tries        1",
        "type         START",
        f"run          {run(2)}",
        "job          tests/etl",
        '  "eventType": "START",',
    ):
        assert line in text.splitlines()
    assert re.search(r"^first tried  \d{4}-", text, re.MULTILINE)
    assert re.search(r"^given up     \d{4}-", text, re.MULTILINE)
    found = document(keepline("dead", "show", "--json", "2@a", "1@a", "--outbox", three_dead))["dead"]
    assert [one["id"] for one in found] == ["2@a", "1@a"]
    assert found[0]["body"]["run"] == {"runId": run(2)}
    raw = said(keepline("dead", "show", "--raw", "3@a", "1@a", "--outbox", three_dead))
    assert [json.loads(line)["job"]["name"] for line in raw.splitlines()] == ["3:START", "1:START"]


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["show", "4@a"], 1, "Error: no dead letter 4@a; see `keepline dead list`"),
        (["show", "1@b"], 1, "Error: no dead letter 1@b"),
        (["show", "1"], 2, "'1' names no dead letter"),
        (["show", "x@a"], 2, "'x@a' names no dead letter"),
        (["show", "99999999999999999999@a"], 2, "names no dead letter"),
        (["replay"], 2, "say which: some IDs, or --all, or filters"),
        (["replay", "--all", "--job", "x"], 0, "nothing to replay"),
        (["replay", "1@a", "--all"], 2, "give either IDs, or --all or filters"),
        (["replay", "1@a", "--destination", "a"], 2, "give either IDs, or --all or filters"),
        (["discard", "--all", "--destination", "a"], 1, "3 dead letters for good (3 of a)"),
        (["list", "--since", "1h", "--until", "2h"], 2, "--since is not before --until"),
        (["replay", "1@a", "4@a"], 1, "Error: no dead letter 4@a"),
        (["discard"], 2, "say which"),
        (["discard", "--destination", "b"], 1, "Error: there is no destination `b`; there is: a"),
        (["discard", "--all"], 1, "this lets go of 3 dead letters for good (3 of a); go on? Nobody is there"),
        (["list", "--destination", "b"], 1, "Error: there is no destination `b`; there is: a"),
        (["list", "--since", "soon"], 2, "'soon' is no time; give 2026-01-31T18:30"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_isn_t_there_or_isn_t_clear_is_an_error_and_changes_nothing(
    words: list[str], status: int, text: str, keepline: Keepline, three_dead: Path
) -> None:
    assert text in " ".join(said(keepline("dead", *words, "--outbox", three_dead), status).split())
    assert status_of(three_dead, "a").dead == 3


def test_replay_delivers_the_dead_again(
    keepline: Keepline, three_dead: Path, destination: RecordingDestination
) -> None:
    text = said(keepline("dead", "replay", "2@a", "--outbox", three_dead))
    assert text.splitlines()[-1] == "a: 1 delivered"
    assert names_in(destination)[-1] == "2:START"
    found = document(keepline("dead", "replay", "--run", run(3), "--json", "--outbox", three_dead))
    (one,) = found["destinations"]
    assert not found["dry_run"]
    assert (one["name"], one["events"], one["runs"], one["set_back"]) == ("a", 1, 1, 0)
    assert one["ends"] == {"delivered": 1}
    assert all_counted(three_dead, "a", 4)
    assert status_of(three_dead, "a").dead == 1
    again = ("--job", "etl", "--since", "1h", "--yes", "--outbox", three_dead)
    assert "a: 1 delivered" in said(keepline("dead", "replay", *again))
    assert said(keepline("dead", "replay", *again)) == "nothing to replay\n"
    assert all_counted(three_dead, "a", 4)


def test_replay_asks_before_it_sets_a_run_back(
    keepline: Keepline, three_dead: Path, destination: RecordingDestination
) -> None:
    before = len(destination.events)
    text = said(keepline("dead", "replay", "--all", "--outbox", three_dead), status=1)
    assert f"at a, 1 run would begin again after its end was delivered: {run(1)} (tests/load)" in text
    assert text.splitlines()[-1] == (
        "Error: this would set 1 run back; replay all the same? Nobody is there to ask; "
        "say --yes if that is meant"
    )
    text = said(keepline("dead", "replay", "--all", "--dry-run", "--outbox", three_dead))
    assert "it would set 1 run back at a\nnothing was replayed\n" in text
    assert (len(destination.events), status_of(three_dead, "a").dead) == (before, 3)
    assert "a: 3 delivered" in said(keepline("dead", "replay", "--all", "--yes", "--outbox", three_dead))
    assert all_counted(three_dead, "a", 4)


def test_replay_of_what_is_refused_again_says_so(
    keepline: Keepline, three_dead: Path, destination: RecordingDestination
) -> None:
    destination.answer(400, times=1)
    text = said(keepline("dead", "replay", "2@a", "3@a", "--outbox", three_dead), status=4)
    told = text.splitlines()[-1].removeprefix("a: ").removesuffix("; see `keepline dead list`")
    assert sorted(told.split(", ")) == ["1 dead", "1 delivered"]
    assert all_counted(three_dead, "a", 4)


def test_discard_lets_go_of_the_dead_and_counts_them(keepline: Keepline, three_dead: Path) -> None:
    text = said(keepline("dead", "discard", "2@a", "--yes", "--outbox", three_dead))
    assert text == "discarded 1 of a\n"
    assert all_counted(three_dead, "a", 4)
    found = document(keepline("dead", "discard", "--all", "--yes", "--json", "--outbox", three_dead))
    assert found == {"discarded": {"a": 2}}
    one = status_of(three_dead, "a")
    assert (one.delivered, one.dead, one.discarded) == (1, 0, 3)
    assert all_counted(three_dead, "a", 4)
    assert said(keepline("dead", "discard", "--all", "--outbox", three_dead)) == "nothing to discard\n"
    assert said(keepline("dead", "list", "--outbox", three_dead)) == "no dead letters\n"


def test_discard_without_a_relay_starts_one(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    destination.answer(400)
    relay = deliver({"a": leg(destination)})
    emit(outbox, "1:START")
    until(lambda: status_of(outbox, "a").dead == 1)
    relay.stop()
    settings = configured(outbox, {"a": leg(destination)})
    assert said(keepline("dead", "discard", "1@a", "--yes", OPENLINEAGE__TRANSPORT=settings))
    assert relay_of(outbox) is not None
    assert all_counted(outbox, "a", 1)


def test_discard_that_no_relay_comes_to_says_so_and_is_done_by_the_next(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    destination.answer(400)
    relay = deliver({"a": leg(destination)})
    emit(outbox, "1:START")
    until(lambda: status_of(outbox, "a").dead == 1)
    relay.stop()
    text = said(keepline("dead", "discard", "--all", "--yes", "--outbox", outbox), status=3)
    assert text.startswith("no relay runs; the next one does it")
    assert "journal 1 command not applied yet" in said(keepline("status", "--outbox", outbox))
    deliver({"a": leg(destination)})
    wait_settled(outbox)
    assert status_of(outbox, "a").discarded == 1


@pytest.mark.parametrize(("typed", "dead"), [("y\n", 2), ("n\n", 3)])
def test_discard_asks_on_a_terminal(typed: str, dead: int, three_dead: Path) -> None:
    ours, theirs = pty.openpty()
    code = "from keepline.cli import main; main()"
    words = ["dead", "discard", "1@a", "--outbox", str(three_dead)]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ
    ) as process:
        os.close(theirs)
        shown = b""
        while b"[y/N]" not in shown:
            assert select.select([ours], [], [], SOON)[0], shown
            shown += os.read(ours, 4096)
        os.write(ours, typed.encode())
        assert process.wait(SOON) == (0 if dead == 2 else 1)
    os.close(ours)
    assert b"this lets go of 1 dead letter for good (1 of a); go on?" in shown
    assert status_of(three_dead, "a").dead == dead
