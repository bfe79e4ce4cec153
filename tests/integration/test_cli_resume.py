"""``keepline resume`` and ``keepline forget``, as somebody types them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support_cli import Keepline, configured, document, emit, said, wait_settled
from tests.support_relay import client, leg, relay_of, run_event, status, status_of, until

from keepline.demo.destination import RecordingDestination

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

Deliver = Callable[..., Any]

SLOW = {"backoff_first": 3600.0, "backoff_max": 3600.0}
"""Settings under which nothing is tried again by itself."""


def paused(outbox: Path, name: str = "a") -> bool:
    found = {one.name: one.state for one in status(outbox).destinations}
    return found.get(name) in ("paused", "out")


# Resume


def test_resume_tries_at_once_what_is_out(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    destination.answer(503, times=1)
    deliver({"a": leg(destination)}, **SLOW)
    emit(outbox, "1:START")
    until(lambda: paused(outbox))
    text = said(keepline("resume", "a", "--outbox", outbox))
    assert text == "resumed a; `keepline status` says what comes of it\n"
    until(lambda: status_of(outbox, "a").delivered == 1)


def test_resume_without_a_name_resumes_all(
    keepline: Keepline,
    outbox: Path,
    destination: RecordingDestination,
    other: RecordingDestination,
    deliver: Deliver,
) -> None:
    destination.answer(503, times=1)
    other.answer(401, times=1)
    deliver({"a": leg(destination), "b": leg(other)}, **SLOW)
    emit(outbox, "1:START")
    until(lambda: paused(outbox) and paused(outbox, "b"))
    assert document(keepline("resume", "--json", "--outbox", outbox)) == {"resumed": ["a", "b"]}
    wait_settled(outbox)


def test_resume_has_a_changed_address_take_effect(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, other: RecordingDestination
) -> None:
    destination.answer(401)
    with closing(client(outbox, {"a": leg(destination)}, **SLOW)) as emitting:
        emitting.emit(run_event("one"))
    until(lambda: paused(outbox))
    before = relay_of(outbox)
    assert before is not None
    settings = configured(outbox, {"a": leg(other)}, **SLOW)
    text = said(keepline("resume", OPENLINEAGE__TRANSPORT=settings))
    assert text.splitlines() == [
        f"the relay (pid {before.pid}) had other settings and is replaced",
        "resumed a; `keepline status` says what comes of it",
    ]
    until(lambda: len(other.events) == 1)
    after = relay_of(outbox)
    assert after is not None
    # What the relay before had is not resumed.
    renamed = configured(outbox, {"b": leg(other)}, **SLOW)
    text = said(keepline("resume", OPENLINEAGE__TRANSPORT=renamed))
    assert text.splitlines()[-1] == "resumed b; `keepline status` says what comes of it"
    said(keepline("resume", OPENLINEAGE__TRANSPORT=settings))
    after = relay_of(outbox)
    # The same settings once more: nothing to replace.
    text = said(keepline("resume", OPENLINEAGE__TRANSPORT=settings))
    assert "replaced" not in text
    assert relay_of(outbox) == after


def test_resume_leaves_a_relay_that_works_alone_when_the_next_could_not_start(
    keepline: Keepline, outbox: Path, destination: RecordingDestination
) -> None:
    with closing(client(outbox, {"a": leg(destination)})) as emitting:
        emitting.emit(run_event("one"))
    until(lambda: len(destination.events) == 1)
    before = relay_of(outbox)
    settings = configured(outbox, {"a": {"type": "nowhere.Transport"}})
    text = said(keepline("resume", OPENLINEAGE__TRANSPORT=settings), status=1)
    assert text == (
        "Error: transports.a: ImportError: Failed to import nowhere.Transport (No module named 'nowhere')\n"
    )
    assert relay_of(outbox) == before


def test_resume_starts_a_relay_where_none_runs(
    keepline: Keepline, outbox: Path, destination: RecordingDestination
) -> None:
    emit(outbox, "1:START")
    settings = configured(outbox, {"a": leg(destination)})
    said(keepline("resume", OPENLINEAGE__TRANSPORT=settings))
    until(lambda: len(destination.events) == 1)


def test_resume_leaves_a_relay_in_the_foreground_to_whoever_runs_it(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, other: RecordingDestination
) -> None:
    running = keepline("relay", OPENLINEAGE__TRANSPORT=configured(outbox, {"a": leg(destination)}))
    until(lambda: "delivering" in running.output)
    settings = configured(outbox, {"a": leg(other)})
    text = said(keepline("resume", OPENLINEAGE__TRANSPORT=settings), status=1)
    assert text == (
        f"Error: the relay (pid {running.pid}) has other settings than those configured here, and isn't "
        "started by Keepline itself; restart it (`keepline relay`)\n"
    )
    assert running.popen.poll() is None


def test_resume_leaves_a_relay_inside_a_program_alone(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, other: RecordingDestination
) -> None:
    with closing(client(outbox, {"a": leg(destination)}, relay="inline")) as emitting:
        emitting.emit(run_event("one"))
        relay = until(lambda: relay_of(outbox))
        assert relay is not None
        settings = configured(outbox, {"a": leg(other)})
        text = said(keepline("resume", OPENLINEAGE__TRANSPORT=settings), status=1)
        assert text.startswith(f"Error: the relay (pid {relay.pid}) has other settings")
        assert text.endswith("is a thread of a program (`relay: inline`); restart that program\n")
        # By its own settings it can be resumed.
        own = configured(outbox, {"a": leg(destination)}, relay="inline")
        said(keepline("resume", OPENLINEAGE__TRANSPORT=own))


def test_resume_of_what_isn_t_configured_is_an_error(keepline: Keepline, outbox: Path) -> None:
    outbox.mkdir()
    settings = configured(outbox, {"a": leg("http://127.0.0.1:1")})
    text = said(keepline("resume", "b", OPENLINEAGE__TRANSPORT=settings), status=1)
    assert text == "Error: there is no destination `b` in the configuration; there is: a\n"
    text = said(keepline("resume", "--outbox", outbox), status=1)
    assert text.startswith("Error: no relay runs, and no destination is configured here")


# Forget


@pytest.fixture
def orphaned(
    outbox: Path, destination: RecordingDestination, other: RecordingDestination, deliver: Deliver
) -> Path:
    """An outbox whose relay knows `old`, with a pending and a dead delivery, and delivers to `new`."""
    destination.answer(422, times=1)
    relay = deliver({"old": leg(destination)}, max_connections=1)
    emit(outbox, "1:START")
    until(lambda: bool(status(outbox).destinations) and status_of(outbox, "old").dead == 1)
    destination.answer(503)
    emit(outbox, "2:START")
    until(lambda: paused(outbox, "old"))
    relay.stop()
    deliver({"new": leg(other)})
    return outbox


def test_forget_drops_an_orphan_with_what_waits_for_it(keepline: Keepline, orphaned: Path) -> None:
    assert (status_of(orphaned, "old").pending, status_of(orphaned, "old").dead) == (1, 1)
    text = said(keepline("forget", "old", "--outbox", orphaned), status=1)
    assert text == (
        "Error: this drops `old` for good, with 1 pending and 1 dead, and the history of what it was given; "
        "go on? Nobody is there to ask; say --yes if that is meant\n"
    )
    assert status_of(orphaned, "old").pending == 1
    text = said(keepline("forget", "old", "--yes", "--outbox", orphaned))
    assert text == "forgot old, with 1 pending and 1 dead\n"
    assert [one.name for one in status(orphaned).destinations] == ["new"]
    emit(orphaned, "3:START")
    wait_settled(orphaned)
    assert status_of(orphaned, "new").delivered == 1


def test_forget_tells_programs_what_went(keepline: Keepline, orphaned: Path) -> None:
    found = document(keepline("forget", "old", "--yes", "--json", "--outbox", orphaned))
    assert found == {"forgotten": "old", "pending": 1, "dead": 1}


def test_forget_refuses_what_is_in_the_configuration(
    keepline: Keepline, orphaned: Path, destination: RecordingDestination
) -> None:
    text = said(keepline("forget", "new", "--yes", "--outbox", orphaned), status=1)
    assert text == "Error: the last relay still had `new`; run `keepline resume` first\n"
    settings = configured(orphaned, {"old": leg(destination)})
    text = said(keepline("forget", "old", "--yes", OPENLINEAGE__TRANSPORT=settings), status=1)
    assert text.startswith("Error: `old` is in the configuration; take it out")
    text = said(keepline("forget", "nil", "--yes", "--outbox", orphaned), status=1)
    assert text == "Error: there is no destination `nil`; out of the configuration: old\n"
    assert status_of(orphaned, "old").pending == 1
