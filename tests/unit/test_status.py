from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from tests.support_outbox import close_producers, event, pending_at, producer

from keepline.errors import OutboxDamaged, OutboxUnavailable
from keepline.outbox import refusals, status
from keepline.outbox.asking import ask
from keepline.outbox.batch import Batch, read
from keepline.outbox.commands import Resume
from keepline.outbox.delivery import DeliveryState, Ended
from keepline.outbox.files import OutboxFiles
from keepline.outbox.ledger import Ledger
from keepline.outbox.reader import is_full, read_next, retire, retire_all
from keepline.outbox.schema import STEPS
from keepline.outbox.segments import segment_numbers, segment_path
from keepline.outbox.status import OutboxStatus, read_status, something_waits
from keepline.tuning import Tuning

OPEN = "open"
SMALL = 300


@pytest.fixture
def files(tmp_path: Path) -> Iterator[OutboxFiles]:
    yield OutboxFiles(tmp_path / "outbox")
    close_producers()


def take_all_in(files: OutboxFiles, ledger: Ledger, destinations: list[int]) -> int:
    """What the relay does when the bell rings, with small batches."""
    taken = 0
    while batch := read_next(files, ledger.position, limit=3):
        ledger.take_in(batch, destinations)
        taken += len(batch.entries)
        for number in segment_numbers(files):
            if is_full(files, number, SMALL):
                retire(files, number, ledger.position(number))
    return taken


def test_an_outbox_that_isnt_there_is_empty_and_stays_away(files: OutboxFiles) -> None:
    assert read_status(files) == OutboxStatus((), 0, None, 0, 0)
    assert read_status(files).settled
    assert not something_waits(files)
    assert not files.folder.exists()


def test_events_that_no_relay_has_taken_in_are_waiting(files: OutboxFiles) -> None:
    producer(files).append(event("a"))
    producer(files).append(event("b"))

    found = read_status(files)

    assert found.waiting == 2
    assert found.waiting_age is not None
    assert 0 <= found.waiting_age < 60
    assert found.bytes_on_disk >= segment_path(files, segment_numbers(files)[0]).stat().st_size
    assert not found.settled
    assert something_waits(files)
    assert not files.ledger.exists()


def test_the_oldest_of_what_waits_tells_the_age(files: OutboxFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    appender = producer(files)
    now = time.time_ns()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: now - 100 * 10**9)
        appender.append(event("old"))
    appender.append(event("young"))

    assert read_status(files).waiting_age == pytest.approx(100, abs=20)
    ledger = Ledger(files)
    take_all_in(files, ledger, list(ledger.register(["trove"], OPEN).values()))
    (trove,) = read_status(files).destinations
    assert trove.oldest_age == pytest.approx(100, abs=20)
    ledger.close()


def test_a_destination_shows_what_is_pending_delivered_and_dead(files: OutboxFiles) -> None:
    ledger = Ledger(files)
    ids = ledger.register(["trove", "datadog"], OPEN)
    for name in "abc":
        producer(files).append(event(name))
    take_all_in(files, ledger, list(ids.values()))
    first, second, _ = (one.event for one in pending_at(ledger, ids["trove"], 0, 3))
    ledger.end(
        [
            Ended(ids["trove"], first, DeliveryState.DELIVERED, 1, status=201),
            Ended(ids["trove"], second, DeliveryState.DEAD, 1, status=400),
        ],
        time.time(),
    )

    found = read_status(files)

    datadog, trove = found.destinations
    assert (datadog.name, datadog.pending, datadog.delivered, datadog.dead) == ("datadog", 3, 0, 0)
    assert (trove.name, trove.pending, trove.delivered, trove.dead) == ("trove", 1, 1, 1)
    assert found.waiting == 0
    assert not found.settled
    assert something_waits(files)
    ledger.close()


def test_a_command_that_no_relay_has_applied_is_no_event_and_keeps_the_outbox_from_being_settled(
    files: OutboxFiles,
) -> None:
    ask(files, [Resume(None)], Tuning())

    found = read_status(files)

    assert (found.waiting, found.waiting_age, found.commands) == (0, None, 1)
    assert not found.settled
    assert something_waits(files)
    ledger = Ledger(files)
    take_all_in(files, ledger, list(ledger.register(["trove"], OPEN).values()))
    assert read_status(files).settled
    ledger.close()


def test_the_ledger_of_an_older_keepline_is_read_as_it_is(files: OutboxFiles) -> None:
    files.create()
    connection = apsw.Connection(str(files.ledger))
    connection.execute(STEPS[0])
    connection.pragma("user_version", 1)
    connection.execute("INSERT INTO destination (name, active, state, since) VALUES ('trove', 1, 'open', 0)")
    connection.close()

    (trove,) = read_status(files).destinations

    assert (trove.name, trove.discarded) == ("trove", 0)


def test_what_was_set_aside_as_damaged_is_named(files: OutboxFiles) -> None:
    files.create()
    files.damaged.mkdir()
    for name in ("ledger.db", "00000000000000000001.seg"):
        (files.damaged / name).touch()

    assert read_status(files).damaged == ("00000000000000000001.seg", "ledger.db")


def test_an_outbox_is_settled_when_every_delivery_to_an_active_destination_has_ended(
    files: OutboxFiles,
) -> None:
    ledger = Ledger(files)
    ids = ledger.register(["trove", "orphan"], OPEN)
    producer(files).append(event("a"))
    take_all_in(files, ledger, list(ids.values()))
    ledger.register(["trove"], OPEN)
    assert not read_status(files).settled

    ledger.end([Ended(ids["trove"], 1, DeliveryState.DELIVERED, 1, status=201)], time.time())

    found = read_status(files)
    orphan, trove = found.destinations
    assert (orphan.active, orphan.pending) == (False, 1)
    assert (trove.active, trove.pending, trove.oldest_age) == (True, 0, None)
    assert found.settled
    assert not something_waits(files)
    ledger.close()


def test_the_ledger_can_be_read_when_no_relay_has_it_open(files: OutboxFiles) -> None:
    ledger = Ledger(files)
    ledger.register(["trove"], OPEN)
    ledger.close()

    assert [one.name for one in read_status(files).destinations] == ["trove"]


def test_looking_changes_nothing_in_the_ledger(files: OutboxFiles) -> None:
    ledger = Ledger(files)
    ledger.register(["trove"], OPEN)
    ledger.close()
    before = files.ledger.read_bytes()

    read_status(files)

    assert files.ledger.read_bytes() == before


def test_a_ledger_that_a_relay_is_just_making_counts_as_none(files: OutboxFiles) -> None:
    producer(files).append(event("a"))
    files.ledger.touch()

    assert read_status(files).waiting == 1
    assert read_status(files).destinations == ()
    assert something_waits(files)


def test_a_file_that_is_no_ledger_is_told_of_as_damage(files: OutboxFiles) -> None:
    files.create()
    files.ledger.write_bytes(b"no database at all" * 1000)

    with pytest.raises(OutboxDamaged, match="aside"):
        read_status(files)
    with pytest.raises(OutboxDamaged, match="aside"):
        something_waits(files)


def test_a_ledger_of_a_newer_keepline_is_not_guessed_at(files: OutboxFiles) -> None:
    Ledger(files).close()
    connection = apsw.Connection(str(files.ledger))
    connection.pragma("user_version", len(STEPS) + 1)
    connection.close()

    with pytest.raises(OutboxDamaged, match="newer Keepline"):
        read_status(files)


def test_an_outbox_below_a_file_is_told_of_as_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(OutboxUnavailable, match="name a folder in `outbox`"):
        read_status(OutboxFiles(tmp_path / "file"))


def test_refused_appends_are_shown(files: OutboxFiles) -> None:
    files.create()
    for _ in range(3):
        refusals.count(files)
    assert read_status(files).refused == 3

    refusals.prepare(files)
    assert read_status(files).refused == 3


def test_a_damaged_count_of_refusals_begins_again(files: OutboxFiles) -> None:
    files.create()
    files.refused.write_bytes(b"\1")
    assert read_status(files).refused == 0

    refusals.count(files)
    assert read_status(files).refused == 1


def test_an_event_counts_at_every_instant_while_it_goes_from_the_journal_into_the_ledger(
    files: OutboxFiles,
) -> None:
    # Segments of a few events each, taken in and deleted as fast as they come.
    ledger = Ledger(files)
    ids = list(ledger.register(["trove"], OPEN).values())
    appender = producer(files, segment_bytes=SMALL)
    appended = 0
    failed: list[str] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            before = appended
            found = read_status(files)
            counted = found.waiting + sum(one.pending for one in found.destinations)
            if counted < before:
                failed.append(f"{counted} of {before} counted")
            if before and (found.settled or not something_waits(files)):
                failed.append(f"settled with {before} waiting")

    thread = threading.Thread(target=look)
    thread.start()
    taken = 0
    for number in range(1500):
        appender.append(event(str(number)))
        appended = number + 1
        if number % 7 == 0:
            taken += take_all_in(files, ledger, ids)
    taken += take_all_in(files, ledger, ids)
    stop.set()
    thread.join()

    assert failed == []
    assert taken == appended == len(pending_at(ledger, ids[0], 0, 2000))
    ledger.close()


def test_events_of_segments_that_vanish_under_every_look_still_count(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(files)
    ids = list(ledger.register(["trove"], OPEN).values())
    appender = producer(files)
    appender.append(event("a"))
    look = status._look

    def look_as_the_relay_takes_in(files: OutboxFiles, numbers: list[int], most: int | None) -> OutboxStatus:
        # All that was there is taken in and deleted after the look at the ledger, and more comes.
        ledger_seen = look(files, [], most)
        take_all_in(files, ledger, ids)
        assert retire_all(files, ledger.position, timeout=1, then=lambda: None)
        for one in pending_at(ledger, ids[0], 0, 10):
            ledger.end([Ended(ids[0], one.event, DeliveryState.DELIVERED, 1, status=201)], time.time())
        appender.append(event("b"))
        return ledger_seen

    monkeypatch.setattr(status, "_look", look_as_the_relay_takes_in)

    assert not read_status(files).settled
    ledger.close()


def test_something_waits_when_a_relay_takes_it_in_between_the_looks_at_ledger_and_journal(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(files)
    ids = list(ledger.register(["trove"], OPEN).values())
    producer(files).append(event("a"))

    def read_too_late(files: OutboxFiles, number: int, position: int, *, limit: int) -> Batch:
        take_all_in(files, ledger, ids)
        assert retire_all(files, ledger.position, timeout=1, then=lambda: None)
        return read(files, number, position, limit=limit)

    monkeypatch.setattr(status, "read", read_too_late)

    assert something_waits(files)
    ledger.close()


def test_a_long_damaged_stretch_is_looked_past(files: OutboxFiles) -> None:
    appender = producer(files)
    appender.append(event("a"))
    with segment_path(files, segment_numbers(files)[0]).open("ab") as file:
        file.write(b"\xff\xfeK\x01" * 500_000)
    appender.append(event("b"))

    assert read_status(files).waiting == 2
    assert something_waits(files)
