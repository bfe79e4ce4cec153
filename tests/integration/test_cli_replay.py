"""``keepline replay``, as somebody types it."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support_cli import Keepline, all_counted, configured, document, emit, run, said, wait_settled
from tests.support_relay import SOON, append, leg, names_in, relay_of, status_of, until

from keepline.demo.destination import RecordingDestination
from keepline.outbox.files import OutboxFiles
from keepline.outbox.sqlite import reading

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(90)]

Deliver = Callable[..., Any]

FOUR = ["1:START", "1:COMPLETE", "2:START", "2:FAIL"]


@pytest.fixture
def delivered(outbox: Path, destination: RecordingDestination, deliver: Deliver) -> Path:
    """An outbox with four delivered events of two runs, and a relay."""
    deliver({"a": leg(destination)})
    emit(outbox, *FOUR[:2])
    emit(outbox, *FOUR[2:], job="load")
    until(lambda: len(names_in(destination)) == 4 and status_of(outbox, "a").delivered == 4)
    return outbox


def everything(outbox: Path) -> list[tuple[Any, ...]]:
    """All that the ledger knows of deliveries and marks."""
    with reading(OutboxFiles(outbox)) as connection:
        assert connection is not None
        deliveries = connection.execute("SELECT * FROM delivery").fetchall()
        return [*deliveries, *connection.execute("SELECT * FROM mark").fetchall()]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--run", run(1)], FOUR[:2]),
        (["--job", "load"], FOUR[2:]),
        (["--job", "tests/etl"], FOUR[:2]),
        (["--from", "1h"], FOUR),
        (["--from", "2000-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00+02:00"], FOUR),
        (["--destination", "a"], FOUR),
        (["--state", "delivered", "--destination", "a"], FOUR),
        (["--yes"], FOUR),
        (["--to", "1h"], []),
        (["--state", "dead"], []),
        (["--run", run(9)], []),
    ],
    ids=" ".join,
)
def test_replay_delivers_again_what_is_asked_for(
    words: list[str],
    names: list[str],
    keepline: Keepline,
    delivered: Path,
    destination: RecordingDestination,
) -> None:
    text = said(keepline("replay", *words, "--outbox", delivered))
    if not names:
        assert text == "nothing to replay\n"
    else:
        assert re.search(rf"^a +{len(names)} +{len(names) // 2} +\d{{4}}-\d\d-\d\d ", text, re.MULTILINE)
        assert text.splitlines()[-1] == f"a: {len(names)} delivered"
    again = names_in(destination)[4:]
    assert Counter(again) == Counter(names)
    # Each run in its order.
    for begins, ends in (FOUR[:2], FOUR[2:]):
        if begins in again:
            assert again.index(begins) < again.index(ends)
    assert all_counted(delivered, "a", 4)


def test_a_dry_run_says_what_it_would_do_and_changes_nothing(
    keepline: Keepline, delivered: Path, destination: RecordingDestination
) -> None:
    before = everything(delivered)
    text = said(keepline("replay", "--dry-run", "--outbox", delivered))
    assert text.splitlines()[-1] == "nothing was replayed"
    found = document(keepline("replay", "--dry-run", "--json", "--outbox", delivered))
    (one,) = found["destinations"]
    assert found["dry_run"]
    assert (one["name"], one["events"], one["runs"], one["ends"]) == ("a", 4, 2, None)
    assert time.time() - 60 < one["first_at"] <= one["last_at"] <= time.time()
    assert everything(delivered) == before
    assert len(destination.events) == 4


def test_a_replay_of_everything_asks_first(
    keepline: Keepline, delivered: Path, destination: RecordingDestination
) -> None:
    text = said(keepline("replay", "--outbox", delivered), status=1)
    assert text == (
        "Error: this replays every event that is kept to a; go on? Nobody is there to ask; "
        "say --yes if that is meant\n"
    )
    assert len(destination.events) == 4


def test_a_replay_that_sets_a_run_back_asks_first(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    deliver({"a": leg(destination)})
    emit(outbox, "1:COMPLETE", "1:START")
    until(lambda: status_of(outbox, "a").delivered == 2)
    words = ("replay", "--run", run(1), "--outbox", outbox)
    text = said(keepline(*words), status=1)
    assert f"warning: at a, 1 run would begin again after its end was delivered: {run(1)}" in text
    assert len(destination.events) == 2
    assert "a: 2 delivered\n" in said(keepline(*words, "--yes"))
    assert all_counted(outbox, "a", 2)


def test_a_new_destination_gets_what_came_before_it(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, other: RecordingDestination
) -> None:
    old = configured(outbox, {"a": leg(destination)})
    emit(outbox, *FOUR)
    said(keepline("flush", OPENLINEAGE__TRANSPORT=old))
    before = relay_of(outbox)
    assert before is not None
    new = configured(outbox, {"a": leg(destination), "new": leg(other)})
    words = ("replay", "--destination", "new", "--from", "2d")
    text = said(keepline(*words, "--dry-run", OPENLINEAGE__TRANSPORT=new))
    assert re.search("^new +4 +2 ", text, re.MULTILINE)
    assert relay_of(outbox) == before

    text = said(keepline(*words, OPENLINEAGE__TRANSPORT=new))

    assert "new: 4 delivered\n" in text
    assert f"the relay (pid {before.pid}) had other settings and is replaced\n" in text
    assert Counter(names_in(other)) == Counter(FOUR)
    assert len(names_in(destination)) == 4
    assert all_counted(outbox, "new", 4)
    assert all_counted(outbox, "a", 4)
    # What it never had is only for those that are named.
    emit(outbox, "3:START")
    said(keepline("flush", OPENLINEAGE__TRANSPORT=new))
    assert document(keepline("replay", "--job", "etl", "--dry-run", "--json", OPENLINEAGE__TRANSPORT=new))[
        "destinations"
    ][1]["events"] == 5  # fmt: skip


def test_a_stretch_that_ends_before_it_begins_is_an_error(keepline: Keepline, delivered: Path) -> None:
    text = said(keepline("replay", "--from", "1h", "--to", "2h", "--outbox", delivered), status=2)
    assert "--from is not before --to" in text


def test_a_replay_among_destinations_that_stand_in_for_one_another(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, other: RecordingDestination
) -> None:
    legs = {"first": leg(destination), "second": leg(other)}
    settings = configured(outbox, legs, continue_on_success=False)
    emit(outbox, *FOUR)
    said(keepline("flush", OPENLINEAGE__TRANSPORT=settings))
    words = ("replay", "--run", run(1), "--destination", "second")
    text = said(keepline(*words, OPENLINEAGE__TRANSPORT=settings))
    assert "the destinations stand in for one another: to the first that accepts\n" in text
    assert text.splitlines()[-1] == "second: 2 delivered"
    assert (len(names_in(destination)), len(names_in(other))) == (6, 0)
    text = said(keepline("trace", run(1), OPENLINEAGE__TRANSPORT=settings))
    assert "    second  not for it: taken by `first`\n" in text


def test_a_replay_where_no_relay_could_come_is_an_error(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    relay = deliver({"a": leg(destination)})
    emit(outbox, "1:START")
    until(lambda: status_of(outbox, "a").delivered == 1)
    relay.stop()
    text = said(keepline("replay", "--run", run(1), "--outbox", outbox), status=1)
    assert "Error: no relay runs, and no destination is configured here" in text


def test_a_destination_that_never_was_is_an_error(keepline: Keepline, delivered: Path) -> None:
    words = ("replay", "--from", "1h", "--outbox", delivered, "--destination")
    assert said(keepline(*words, "b"), status=1) == "Error: there is no destination `b`; there is: a\n"


def test_an_orphan_gets_no_replay(
    keepline: Keepline,
    outbox: Path,
    destination: RecordingDestination,
    other: RecordingDestination,
    deliver: Deliver,
) -> None:
    relay = deliver({"old": leg(destination)})
    emit(outbox, "1:START")
    until(lambda: status_of(outbox, "old").delivered == 1)
    relay.stop()
    deliver({"new": leg(other)})
    text = said(keepline("replay", "--destination", "old", "--outbox", outbox), status=1)
    assert text.startswith("Error: nothing is delivered to `old` any more: it is out of the configuration")
    assert "keepline forget old" in text
    assert said(keepline("replay", "--run", run(1), "--outbox", outbox)) == "nothing to replay\n"


def test_a_replay_under_load_keeps_each_run_in_order_and_loses_nothing(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    deliver({"a": leg(destination)})
    events = [f"{number}:{kind}" for number in range(700) for kind in ("START", "COMPLETE")]
    emit(outbox, *events)
    wait_settled(outbox)
    received = len(destination.events)
    stop = threading.Event()
    more: list[str] = []

    def load() -> None:
        while not stop.is_set():
            more.extend(append(outbox, [f"more {len(more)}"], run=lambda _: f"more {len(more)}"))

    thread = threading.Thread(target=load)
    thread.start()
    # More than one command.
    text = said(keepline("replay", "--job", "etl", "--outbox", outbox))
    stop.set()
    thread.join()
    assert text.splitlines()[-1] == "a: 1400 delivered"
    wait_settled(outbox)
    again = names_in(destination)[received:]
    assert Counter(again) == Counter([*events, *more])
    places = {name: place for place, name in enumerate(again)}
    assert all(places[f"{number}:START"] < places[f"{number}:COMPLETE"] for number in range(700))
    assert all_counted(outbox, "a", 1400 + len(more))


def test_a_replay_gives_up_in_time_on_a_destination_that_is_out(
    keepline: Keepline, delivered: Path, destination: RecordingDestination
) -> None:
    destination.down()
    text = said(keepline("replay", "--run", run(1), "--timeout", "1", "--outbox", delivered), status=3)
    assert text.splitlines()[-1].startswith("a: 2 pending; it is out: Failed to connect")
    assert all_counted(delivered, "a", 4)


def test_a_replay_needn_t_be_waited_for(
    keepline: Keepline, delivered: Path, destination: RecordingDestination
) -> None:
    text = said(keepline("replay", "--run", run(1), "--no-wait", "--outbox", delivered))
    assert text.splitlines()[-1] == "asked; the relay delivers it in its turn (`keepline status`)"
    until(lambda: len(destination.events) == 6)


def test_a_replay_without_a_relay_waits_for_the_next(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    relay = deliver({"a": leg(destination)})
    emit(outbox, "1:START")
    until(lambda: status_of(outbox, "a").delivered == 1)
    relay.stop()
    settings = configured(outbox, {"a": leg(destination)}, relay="external")
    text = said(keepline("replay", "--run", run(1), OPENLINEAGE__TRANSPORT=settings), status=3)
    assert text.splitlines()[-1].startswith("no relay runs; the next one does it")
    deliver({"a": leg(destination)})
    until(lambda: len(destination.events) == 2)
    wait_settled(outbox)


def test_a_relay_that_fails_isn_t_waited_for(
    keepline: Keepline,
    outbox: Path,
    environment: Path,
    destination: RecordingDestination,
    deliver: Deliver,
) -> None:
    relay = deliver({"a": leg(destination)})
    emit(outbox, "1:START")
    until(lambda: status_of(outbox, "a").delivered == 1)
    relay.stop()
    words = ("replay", "--run", run(1))
    settings = configured(outbox, {"a": {"type": "nowhere.Transport"}})
    text = said(keepline(*words, OPENLINEAGE__TRANSPORT=settings), status=1)
    assert "Error: transports.a: ImportError: Failed to import nowhere.Transport" in text
    (environment / "broken.py").write_text(
        "import sys\n"
        "from openlineage.client.transport.transport import Transport\n"
        "if 'replay' not in sys.argv: raise RuntimeError('out of order')\n"  # in the relay
        "class Broken(Transport):\n"
        "    def emit(self, event): pass\n"
    )
    settings = configured(outbox, {"a": {"type": "broken.Broken"}})
    began = time.monotonic()
    text = said(keepline(*words, OPENLINEAGE__TRANSPORT=settings), status=3)
    assert "no relay runs; the next one does it" in text
    assert text.endswith("the last one said: ImportError: Failed to import broken.Broken\n")
    assert time.monotonic() - began < SOON


def test_a_progress_bar_is_shown_on_a_terminal(delivered: Path) -> None:
    ours, theirs = pty.openpty()
    code = "from keepline.cli import main; main()"
    words = ["replay", "--job", "etl", "--outbox", str(delivered)]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
        text=True,
    ) as process:
        os.close(theirs)
        shown = b""
        while select.select([ours], [], [], SOON)[0]:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # Linux's way of saying that the other end is closed.
                break
        output, _ = process.communicate(timeout=SOON)
    os.close(ours)
    assert process.returncode == 0
    assert output.splitlines()[-1] == "a: 2 delivered"
    assert b"2/2" in shown
