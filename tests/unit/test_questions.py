"""What an outbox answers to those who ask: dead letters, selections, runs, traces, commands that wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import apsw
import pytest
from tests.support_outbox import close_producers, producer

from keepline.errors import OutboxUnavailable
from keepline.event import Event
from keepline.outbox.archive import archived_numbers
from keepline.outbox.asking import ask, is_applied
from keepline.outbox.commands import Discard, Replay, Resume, from_json
from keepline.outbox.contents import body_of_event
from keepline.outbox.dead import DEAD, dead_letters
from keepline.outbox.delivery import DeliveryState, Ended
from keepline.outbox.destinations import Known, known_destinations
from keepline.outbox.files import OutboxFiles
from keepline.outbox.following import ends_of, pending_of
from keepline.outbox.ledger import Ledger
from keepline.outbox.reader import read_next, retire_all
from keepline.outbox.runs import list_runs
from keepline.outbox.schema import STEPS
from keepline.outbox.segments import segment_numbers
from keepline.outbox.selection import Chosen, Selection, choose
from keepline.outbox.snapshot import snapshot
from keepline.outbox.tracing import trace
from keepline.tuning import Tuning

DELIVERED = frozenset({DeliveryState.DELIVERED})
ENDED = DELIVERED | DEAD


@pytest.fixture
def files(tmp_path: Path) -> Iterator[OutboxFiles]:
    yield OutboxFiles(tmp_path / "outbox")
    close_producers()


@pytest.fixture
def ledger(files: OutboxFiles) -> Iterator[Ledger]:
    made = Ledger(files)
    yield made
    made.close()


def append(files: OutboxFiles, *events: str, job: str = "etl") -> None:
    """Append events, each ``<run>:<type>``."""
    appender = producer(files)
    for each in events:
        run, _, event_type = each.rpartition(":")
        appender.append(Event(b'{"it": "' + each.encode() + b'"}', run, event_type, "prod", job))


def take_in(files: OutboxFiles, ledger: Ledger, names: Sequence[str] = ("a",)) -> dict[str, int]:
    """What the relay does when the bell rings: events come in, commands are applied."""
    ids = ledger.register(names, "open")
    while batch := read_next(files, ledger.position, limit=100):
        with ledger.transaction():
            ledger.take_in(batch, list(ids.values()))
            for entry in batch.entries:
                if entry.is_command:
                    from_json(entry.body).apply(ledger)
    return ids


def end(ledger: Ledger, destination: int, state: DeliveryState, *events: int, at: float = 1.0) -> None:
    status = 201 if state is DeliveryState.DELIVERED else 400
    ledger.end([Ended(destination, each, state, 1, at, status, f"HTTP {status}") for each in events], at)


def chosen(files: OutboxFiles, **wanted: object) -> list[int]:
    return list(choose(files, "a", Selection(**{"states": ENDED, **wanted})).events)  # type: ignore[arg-type]


def counts(ledger: Ledger, name: str = "a") -> tuple[int, int, int, int]:
    """Pending, delivered, dead and discarded, as the rows say it; the counters have to agree."""
    rows = ledger.db.execute(
        "SELECT state, count(*) FROM delivery WHERE destination = ? GROUP BY state", (ledger.ident_of(name),)
    ).fetchall()
    found = dict(cast("list[tuple[int, int]]", rows))
    told = ledger.db.execute(
        "SELECT delivered, dead, discarded FROM destination WHERE name = ?", (name,)
    ).fetchall()
    assert told == [(found.get(1, 0), found.get(2, 0), found.get(3, 0))]
    return found.get(0, 0), found.get(1, 0), found.get(2, 0), found.get(3, 0)


# Where there is nothing


def test_an_outbox_without_a_ledger_answers_with_nothing(files: OutboxFiles) -> None:
    assert known_destinations(files) == {}
    assert dead_letters(files, None, Selection(DEAD), 10) == ([], 0)
    assert chosen(files, never_had=True) == []
    assert list_runs(files, job=None, since=None, only_open=False, limit=10).runs == ()
    assert trace(files, run="x").runs == ()
    assert not files.folder.exists()


def test_an_older_ledger_is_left_to_the_relay(files: OutboxFiles) -> None:
    files.create()
    connection = apsw.Connection(str(files.ledger))
    connection.execute(STEPS[0])
    connection.pragma("user_version", 1)
    connection.close()

    with pytest.raises(OutboxUnavailable, match="keepline flush"):
        known_destinations(files)


# Selections


def test_a_selection_goes_by_run_job_time_state_and_id(files: OutboxFiles, ledger: Ledger) -> None:
    append(files, "r1:START", "r1:COMPLETE", "r2:START")
    append(files, "r3:START", "r3:FAIL", job="load")
    ids = take_in(files, ledger)
    end(ledger, ids["a"], DeliveryState.DELIVERED, 1, 2, 4, at=10.0)
    end(ledger, ids["a"], DeliveryState.DEAD, 3, at=20.0)

    assert chosen(files) == [1, 2, 3, 4]  # 5 is pending
    assert chosen(files, states=DELIVERED) == [1, 2, 4]
    assert chosen(files, states=DEAD) == [3]
    assert chosen(files, run="r1") == [1, 2]
    assert chosen(files, job="load") == chosen(files, job="prod/load") == [4]
    assert chosen(files, job="prod") == []
    assert chosen(files, ended_since=15.0) == [3]
    assert chosen(files, ended_until=15.0) == [1, 2, 4]
    assert chosen(files, events=(2, 5, 99)) == [2]
    assert chosen(files, since=time.time() + 60) == chosen(files, until=time.time() - 60) == []
    assert chosen(files, since=time.time() - 60, until=time.time() + 60) == [1, 2, 3, 4]


def test_what_a_destination_never_had_is_chosen_only_when_it_is_meant(
    files: OutboxFiles, ledger: Ledger
) -> None:
    append(files, "r1:START", "r1:COMPLETE")
    take_in(files, ledger, ["old"])
    ids = take_in(files, ledger, ["old", "a"])
    append(files, "r2:START")
    take_in(files, ledger, ["old", "a"])
    end(ledger, ids["a"], DeliveryState.DELIVERED, 3)

    assert chosen(files) == [3]
    assert chosen(files, never_had=True) == [1, 2, 3]
    unknown = choose(files, "new", Selection(ENDED, never_had=True))
    assert (list(unknown.events), unknown.runs) == ([1, 2, 3], 2)


def test_a_selection_tells_how_many_of_how_many_runs_and_from_when_to_when(
    files: OutboxFiles, ledger: Ledger
) -> None:
    append(files, "r1:START", "r1:COMPLETE", "r2:START", ":")
    ids = take_in(files, ledger)
    end(ledger, ids["a"], DeliveryState.DELIVERED, 1, 2, 3, 4)

    found = choose(files, "a", Selection(ENDED))

    assert (len(found.events), found.runs, found.ledger) == (4, 2, ledger.identity)
    assert found.first_at is not None
    assert found.last_at is not None
    assert time.time() - 60 < found.first_at <= found.last_at <= time.time()


# Runs that would be set back


def set_back(files: OutboxFiles, **wanted: object) -> list[str]:
    found: Chosen = choose(files, "a", Selection(**{"states": ENDED, **wanted}))  # type: ignore[arg-type]
    assert found.set_back == len(found.examples)
    return [one.run for one in found.examples]


@pytest.mark.parametrize("end_type", ["COMPLETE", "FAIL", "ABORT"])
@pytest.mark.parametrize("begin_type", ["START", "RUNNING"])
def test_a_beginning_behind_its_delivered_end_sets_the_run_back(
    begin_type: str, end_type: str, files: OutboxFiles, ledger: Ledger
) -> None:
    append(files, f"r1:{begin_type}", f"r1:{end_type}", "r2:START")
    ids = take_in(files, ledger)
    end(ledger, ids["a"], DeliveryState.DEAD, 1, 3)
    end(ledger, ids["a"], DeliveryState.DELIVERED, 2)

    assert set_back(files, states=DEAD) == ["r1"]
    assert set_back(files, events=(1,)) == ["r1"]


def test_a_run_that_is_replayed_to_its_end_is_not_set_back(files: OutboxFiles, ledger: Ledger) -> None:
    append(files, "r1:START", "r1:COMPLETE")
    ids = take_in(files, ledger)
    end(ledger, ids["a"], DeliveryState.DEAD, 1)
    end(ledger, ids["a"], DeliveryState.DELIVERED, 2)

    assert set_back(files) == []
    assert set_back(files, events=(2,)) == []


def test_a_run_whose_end_was_appended_before_its_beginning_is_set_back(
    files: OutboxFiles, ledger: Ledger
) -> None:
    append(files, "r1:COMPLETE", "r1:START")
    ids = take_in(files, ledger)
    end(ledger, ids["a"], DeliveryState.DELIVERED, 1, 2)

    assert set_back(files) == ["r1"]


@pytest.mark.parametrize("state", [DeliveryState.DEAD, None], ids=["dead", "pending"])
def test_a_run_whose_end_was_not_delivered_is_not_set_back(
    state: DeliveryState | None, files: OutboxFiles, ledger: Ledger
) -> None:
    append(files, "r1:START", "r1:COMPLETE")
    ids = take_in(files, ledger)
    end(ledger, ids["a"], DeliveryState.DELIVERED, 1)
    if state is not None:
        end(ledger, ids["a"], state, 2)

    assert set_back(files, events=(1,)) == []


def test_an_end_that_still_waits_comes_behind_the_beginning(files: OutboxFiles, ledger: Ledger) -> None:
    append(files, "r1:START", "r1:FAIL", "r1:COMPLETE")
    ids = take_in(files, ledger)
    end(ledger, ids["a"], DeliveryState.DELIVERED, 1, 2)

    assert set_back(files, events=(1,)) == []


def test_events_without_a_run_set_none_back(files: OutboxFiles, ledger: Ledger) -> None:
    append(files, ":START", ":COMPLETE")
    ids = take_in(files, ledger)
    end(ledger, ids["a"], DeliveryState.DELIVERED, 1, 2)

    assert set_back(files, events=(1,)) == []


# Commands on their way


def test_a_command_is_applied_when_the_relay_has_come_past_it(files: OutboxFiles, ledger: Ledger) -> None:
    append(files, "r1:START")
    asked = ask(files, [Resume(None), Resume("a")], Tuning())
    assert asked is not None
    assert not is_applied(files, asked)

    take_in(files, ledger)

    assert is_applied(files, asked)
    assert retire_all(files, ledger.position, timeout=1, then=lambda: None)
    assert is_applied(files, asked)
    assert ask(files, [], Tuning()) is None


def test_a_command_is_found_however_many_append_beside_it(files: OutboxFiles, ledger: Ledger) -> None:
    stop = threading.Event()

    def emit() -> None:
        appender = producer(files, segment_bytes=2000)
        while not stop.is_set():
            appender.append(Event(b"{}", "r", "START", "prod", "etl"))

    threads = [threading.Thread(target=emit) for _ in range(2)]
    for thread in threads:
        thread.start()
    asked = [ask(files, [Resume(str(number))], Tuning(segment_bytes=2000)) for number in range(50)]
    stop.set()
    for thread in threads:
        thread.join()

    assert not any(is_applied(files, one) for one in asked if one is not None)
    take_in(files, ledger)
    assert all(one is not None and is_applied(files, one) for one in asked)


def test_replay_and_discard_keep_every_delivery_counted(files: OutboxFiles, ledger: Ledger) -> None:
    append(files, *(f"r{number}:START" for number in range(6)))
    ids = take_in(files, ledger)
    end(ledger, ids["a"], DeliveryState.DELIVERED, 1, 2)
    end(ledger, ids["a"], DeliveryState.DEAD, 3, 4)
    assert counts(ledger) == (2, 2, 2, 0)

    ask(files, [Replay(ledger.identity, "a", (1, 3)), Discard(ledger.identity, "a", (3, 4, 5, 99))], Tuning())
    take_in(files, ledger)
    assert counts(ledger) == (4, 1, 0, 1)

    ask(files, [Replay(ledger.identity, "a", (1, 2, 3, 4, 5, 6, 99))], Tuning())
    take_in(files, ledger)
    assert counts(ledger) == (6, 0, 0, 0)

    ask(files, [Replay("another", "a", (1,)), Discard("another", "a", (1,))], Tuning())
    end(ledger, ids["a"], DeliveryState.DEAD, 1)
    take_in(files, ledger)
    assert counts(ledger) == (5, 0, 1, 0)


def test_what_is_replayed_is_seen_to_wait_and_to_end(files: OutboxFiles, ledger: Ledger) -> None:
    append(files, *(f"r{number}:START" for number in range(5)))
    ids = take_in(files, ledger)
    end(ledger, ids["a"], DeliveryState.DELIVERED, 1, 3, 5)
    events = choose(files, "a", Selection(ENDED)).events
    ask(files, [Replay(ledger.identity, "a", tuple(events))], Tuning())
    assert pending_of(files, "a", events) == 0

    take_in(files, ledger)

    assert pending_of(files, "a", events) == 3  # not 4 and 2, which wait between them
    end(ledger, ids["a"], DeliveryState.DEAD, 1)
    end(ledger, ids["a"], DeliveryState.DELIVERED, 3)
    assert ends_of(files, "a", events) == {"dead": 1, "delivered": 1, "pending": 1}
    ledger.db.execute("DELETE FROM delivery WHERE event = 5")
    assert ends_of(files, "a", events) == {"dead": 1, "delivered": 1, "none": 1}


# Dead letters


def test_dead_letters_tell_all_that_is_kept(files: OutboxFiles, ledger: Ledger) -> None:
    append(files, "r1:START", "r1:COMPLETE", "r2:START")
    ids = take_in(files, ledger, ["a", "b"])
    end(ledger, ids["a"], DeliveryState.DEAD, 1, 3, at=5.0)
    end(ledger, ids["b"], DeliveryState.DEAD, 3, at=6.0)

    found, total = dead_letters(files, None, Selection(DEAD), 2)

    assert ([one.ident for one in found], total) == (["3@a", "3@b"], 3)
    (one,), total = dead_letters(files, ["a"], Selection(DEAD, run="r1"), 10)
    assert total == 1
    assert (one.status, one.answer, one.attempts, one.first_at, one.ended_at) == (
        400,
        "HTTP 400",
        1,
        5.0,
        5.0,
    )
    assert (one.event_type, one.run, one.job_namespace, one.job_name) == ("START", "r1", "prod", "etl")
    assert known_destinations(files) == {
        "a": Known(ledger.identity, "a", True, 1, 2),
        "b": Known(ledger.identity, "b", True, 2, 1),
    }


def test_the_body_of_an_event_is_found_in_the_journal_the_archive_and_the_ledger(
    files: OutboxFiles, ledger: Ledger
) -> None:
    append(files, "r1:START")
    take_in(files, ledger)
    body = b'{"it": "r1:START"}'
    assert body_of_event(files, 1) == body
    assert retire_all(files, ledger.position, timeout=1, then=lambda: None)
    assert body_of_event(files, 1) == body
    ledger.db.execute("INSERT INTO body (event, body) VALUES (1, ?)", (body,))
    ledger.db.execute("UPDATE event SET segment = NULL, position = NULL, length = NULL")
    assert body_of_event(files, 1) == body
    assert body_of_event(files, 2) is None


# Runs and traces


def test_runs_are_told_with_the_latest_first_and_open_ones_with_the_oldest_first(
    files: OutboxFiles, ledger: Ledger
) -> None:
    append(files, "r1:START", "r2:START", "job:prod/etl:", "r3:RUNNING", "r1:RUNNING", "r2:FAIL")
    take_in(files, ledger)
    append(files, "r4:START", "r1:OTHER", job="load")  # not taken in yet

    found = list_runs(files, job=None, since=None, only_open=False, limit=3)

    assert [(one.run, one.last_type, one.events) for one in found.runs] == [
        ("r1", "OTHER", 3), ("r4", "START", 1), ("r2", "FAIL", 2),
    ]  # fmt: skip
    assert found.total == 4
    assert found.known_since == pytest.approx(time.time(), abs=60)
    assert found.runs[0].job_name == "load"
    still = list_runs(files, job=None, since=None, only_open=True, limit=10)
    assert [one.run for one in still.runs] == ["r1", "r4"]
    assert all(one.open for one in still.runs)
    assert [
        one.run for one in list_runs(files, job="prod/load", since=None, only_open=True, limit=9).runs
    ] == ["r4"]
    assert list_runs(files, job=None, since=time.time() + 60, only_open=False, limit=9).runs == ()


def test_a_trace_tells_of_each_event_at_each_destination(files: OutboxFiles, ledger: Ledger) -> None:
    append(files, "r1:START", "r2:START")
    take_in(files, ledger, ["a", "gone"])
    ids = take_in(files, ledger, ["a", "b"])
    append(files, "r1:RUNNING")
    take_in(files, ledger, ["a", "b"])
    append(files, "r1:COMPLETE")
    end(ledger, ids["a"], DeliveryState.DELIVERED, 1)
    end(ledger, ids["a"], DeliveryState.DEAD, 3)
    ledger.describe(ids["b"], state="out", reason="HTTP 503")

    (run,) = trace(files, run="r1").runs

    assert (run.run, run.job_namespace, run.job_name) == ("r1", "prod", "etl")
    assert [(one.event, one.event_type) for one in run.events] == [
        (1, "START"), (3, "RUNNING"), (None, "COMPLETE"),
    ]  # fmt: skip
    told = [[(each.destination, each.state, each.why) for each in one.deliveries] for one in run.events]
    assert told == [
        [("a", "delivered", ""), ("b", "none", ""), ("gone", "pending", "it is out of the configuration")],
        [("a", "dead", ""), ("b", "pending", "out: HTTP 503"), ("gone", "none", "")],
        [],
    ]
    assert trace(files, run="r9").runs == ()
    assert [one.run for one in trace(files, job="etl", limit=2).runs] == ["r1", "r2"]
    assert [one.run for one in trace(files, job="prod/etl", limit=1).runs] == ["r1"]


def test_what_was_appended_is_seen_at_every_instant_while_it_is_taken_in_and_archived(
    files: OutboxFiles, ledger: Ledger
) -> None:
    appender = producer(files, segment_bytes=300)
    ids = list(ledger.register(["a"], "open").values())
    appended = 0
    failed: list[str] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            before = appended
            with snapshot(files, with_journal=True) as db:
                counted = int(db.execute("SELECT count(*) FROM known").get)
            if counted < before:
                failed.append(f"{counted} of {before} seen")

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(600):
        appender.append(Event(b"{}", str(number), "START", "prod", "etl"))
        appended = number + 1
        if number % 7 == 0:
            while batch := read_next(files, ledger.position, limit=3):
                ledger.take_in(batch, ids)
            retire_all(files, ledger.position, timeout=1, then=lambda: None)
    stop.set()
    thread.join()

    assert failed == []
    assert archived_numbers(files)
    assert len(segment_numbers(files)) <= 7
