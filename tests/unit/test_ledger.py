from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import apsw
import pytest
from tests.support_outbox import (
    Child,
    Reports,
    child,
    close_producers,
    end_of,
    event,
    fill,
    pending_at,
    producer,
    query,
    small_disk,
    until,
    wait_for_the_kill,
)

from keepline.errors import OutboxDamaged, OutboxLocked, OutboxUnavailable
from keepline.outbox.archive import archived_path
from keepline.outbox.batch import Batch, read
from keepline.outbox.delivery import DeliveryState, Ended, Pending, Tried
from keepline.outbox.files import OutboxFiles
from keepline.outbox.ledger import Ledger
from keepline.outbox.reader import retire
from keepline.outbox.schema import STEPS
from keepline.outbox.segments import segment_numbers, segment_path
from keepline.outbox.status import read_status

OPEN = "open"
DELIVERED, DEAD = DeliveryState.DELIVERED, DeliveryState.DEAD


@pytest.fixture
def files(tmp_path: Path) -> Iterator[OutboxFiles]:
    yield OutboxFiles(tmp_path / "outbox")
    close_producers()


@pytest.fixture
def ledger(files: OutboxFiles) -> Iterator[Ledger]:
    opened = Ledger(files)
    yield opened
    opened.close()


def appended(files: OutboxFiles, *wanted: str, size: int = 0) -> Batch:
    """What the relay reads when these have been appended."""
    appender = producer(files)
    before = [end_of(files, number) for number in segment_numbers(files)]
    for name in wanted:
        appender.append(event(name, size=size))
    appender.close()
    (number,) = segment_numbers(files)
    return read(files, number, before[0] if before else 0, limit=1_000_000)


def bodies(pending: list[Pending]) -> list[bytes | None]:
    return [one.body for one in pending]


def all_of(batch: Batch) -> list[bytes]:
    return [entry.event.body for entry in batch.entries]


# Taking in


def test_an_event_taken_in_waits_at_every_destination_in_the_order_of_appending(
    files: OutboxFiles, ledger: Ledger
) -> None:
    ids = ledger.register(["trove", "datadog"], OPEN)
    batch = appended(files, "a", "b", "c")

    ledger.take_in(batch, list(ids.values()))

    assert bodies(pending_at(ledger, ids["trove"], 0, 10)) == all_of(batch)
    assert bodies(pending_at(ledger, ids["datadog"], 0, 10)) == all_of(batch)
    assert ledger.position(batch.segment) == batch.position
    assert not ledger.is_empty()


def test_what_waits_is_given_in_parts(files: OutboxFiles, ledger: Ledger) -> None:
    one = ledger.register(["trove"], OPEN)["trove"]
    batch = appended(files, "a", "b", "c")
    ledger.take_in(batch, [one])

    first = pending_at(ledger, one, 0, 2)
    rest = pending_at(ledger, one, first[-1].event, 2)

    assert bodies(first + rest) == all_of(batch)
    assert [pending.run_key for pending in first] == ["run", "run"]


def test_a_batch_that_was_taken_in_before_is_refused_whole(files: OutboxFiles, ledger: Ledger) -> None:
    one = ledger.register(["trove"], OPEN)["trove"]
    batch = appended(files, "a", "b")
    ledger.take_in(batch, [one])

    with pytest.raises(OutboxLocked, match="see that one relay delivers"):
        ledger.take_in(batch, [one])

    assert bodies(pending_at(ledger, one, 0, 10)) == all_of(batch)


def test_of_two_relays_that_have_read_the_same_events_one_takes_them_in(
    files: OutboxFiles, ledger: Ledger
) -> None:
    one = ledger.register(["trove"], OPEN)["trove"]
    batch = appended(files, "a", "b")
    second = Ledger(files)

    def take_in_between() -> None:
        with second.transaction():
            assert second.position(batch.segment) == 0  # From here on it sees what there was now.
            ledger.take_in(batch, [one])
            second.take_in(batch, [one])

    with pytest.raises(OutboxLocked):
        take_in_between()
    with pytest.raises(OutboxLocked):
        second.take_in(batch, [one])
    second.close()

    assert bodies(pending_at(ledger, one, 0, 10)) == all_of(batch)


def test_bodies_are_read_out_of_the_segment_wherever_it_stands(files: OutboxFiles, ledger: Ledger) -> None:
    one = ledger.register(["trove"], OPEN)["trove"]
    batch = appended(files, "a", "b")
    ledger.take_in(batch, [one])
    assert bodies(pending_at(ledger, one, 0, 10)) == all_of(batch)

    assert retire(files, batch.segment, batch.position)
    assert segment_numbers(files) == []
    assert archived_path(files, batch.segment).exists()

    assert bodies(pending_at(ledger, one, 0, 10)) == all_of(batch)
    assert query(files, "SELECT count(*) FROM body") == 0


def test_what_waits_in_a_segment_that_is_gone_or_damaged_is_given_without_its_body(
    files: OutboxFiles, ledger: Ledger
) -> None:
    one = ledger.register(["trove"], OPEN)["trove"]
    batch = appended(files, "a", "b", "c")
    ledger.take_in(batch, [one])
    path = segment_path(files, batch.segment)
    data = bytearray(path.read_bytes())
    data[batch.entries[1].end - 3] ^= 4
    path.write_bytes(data)

    first, second, third = pending_at(ledger, one, 0, 10)
    assert (first.body, second.body, third.body) == (all_of(batch)[0], None, all_of(batch)[2])

    ledger.bodies.close()
    path.unlink()
    assert bodies(pending_at(ledger, one, 0, 10)) == [None, None, None]


def test_what_is_given_at_once_is_bounded_in_bytes_but_for_the_first(
    files: OutboxFiles, ledger: Ledger
) -> None:
    one = ledger.register(["trove"], OPEN)["trove"]
    ledger.take_in(appended(files, "a", "b", "c", size=1000), [one])

    assert len(pending_at(ledger, one, 0, 10, most_bytes=1)) == 1
    assert len(pending_at(ledger, one, 0, 10, most_bytes=2500)) == 2


def test_a_relay_killed_while_it_takes_events_in_loses_and_doubles_none(
    files: OutboxFiles, tmp_path: Path
) -> None:
    appender = producer(files)
    expected = []
    for number in range(3000):
        appender.append(event(str(number), size=1000))
        expected.append(event(str(number), size=1000).body)
    segment = segment_numbers(files)[-1]
    reports = Reports(tmp_path / "reports")

    def take_all_in() -> None:
        ledger = Ledger(files)
        one = ledger.register(["trove"], OPEN)["trove"]
        while True:
            batch = read(files, segment, ledger.position(segment), limit=50)
            if not batch.entries:
                ledger.close()
                return
            ledger.take_in(batch, [one])
            reports.accepted(str(batch.position))

    killed = 0
    for wanted in range(7, 60, 7):
        relay = Child(take_all_in)
        until(partial(lambda wanted: len(reports.read()) >= wanted, wanted))
        killed += relay.kill() == -signal.SIGKILL
    assert Child(take_all_in).end() == 0

    ledger = Ledger(files)
    one = ledger.register(["trove"], OPEN)["trove"]
    assert bodies(pending_at(ledger, one, 0, 10_000)) == expected
    assert killed > 3
    ledger.close()


# The ends of deliveries


def test_a_delivery_ends_once_and_counts_once(files: OutboxFiles, ledger: Ledger) -> None:
    ids = ledger.register(["trove", "datadog"], OPEN)
    ledger.take_in(appended(files, "a", "b"), list(ids.values()))
    first, second = (one.event for one in pending_at(ledger, ids["trove"], 0, 10))

    ledger.end([Ended(ids["trove"], first, DELIVERED, 1, answer="201")], at=1.0)
    ledger.end([Ended(ids["trove"], first, DEAD, 2, answer="400")], at=2.0)
    ledger.end([Ended(ids["trove"], first, DELIVERED, 3, answer="201")], at=3.0)
    ledger.end([Ended(ids["trove"], second, DEAD, 1, answer="400")], at=4.0)

    trove = next(one for one in read_status(files).destinations if one.name == "trove")
    assert (trove.pending, trove.delivered, trove.dead) == (0, 1, 1)
    assert query(files, "SELECT attempts, ended_at, answer FROM delivery WHERE state = 1") == (1, 1.0, "201")
    assert [one.event for one in pending_at(ledger, ids["datadog"], 0, 10)] == [first, second]
    assert not ledger.is_empty()


def test_what_is_written_in_one_transaction_is_written_together_or_not_at_all(
    files: OutboxFiles, ledger: Ledger
) -> None:
    one = ledger.register(["trove"], OPEN)["trove"]
    ledger.take_in(appended(files, "a"), [one])
    number = pending_at(ledger, one, 0, 1)[0].event

    def fail() -> None:
        with ledger.transaction():
            ledger.end([Ended(one, number, DELIVERED, 1, answer="201")], at=1.0)
            ledger.describe(one, state="out", reason="503")
            raise KeyError

    with pytest.raises(KeyError):
        fail()

    trove = read_status(files).destinations[0]
    assert (trove.pending, trove.delivered, trove.state) == (1, 0, OPEN)


def test_a_destinations_state_and_last_answer_are_kept(files: OutboxFiles, ledger: Ledger) -> None:
    one = ledger.register(["trove"], OPEN)["trove"]
    ledger.describe(one, state="out", reason="answered 503")
    ledger.answered(one, "503 busy", at=5.0)

    trove = read_status(files).destinations[0]
    assert (trove.state, trove.reason) == ("out", "answered 503")
    assert (trove.last_answer, trove.last_answer_at) == ("503 busy", 5.0)


def test_a_destination_left_out_keeps_what_waits_and_gets_no_more_until_it_is_named_again(
    files: OutboxFiles, ledger: Ledger
) -> None:
    ids = ledger.register(["trove", "datadog"], OPEN)
    before = appended(files, "a")
    ledger.take_in(before, list(ids.values()))

    fewer = ledger.register(["trove"], OPEN)
    ledger.take_in(appended(files, "b"), list(fewer.values()))
    ledger.end([Ended(ids["trove"], one.event, DELIVERED, 1) for one in pending_at(ledger, 1, 0, 9)], 1.0)

    assert ledger.is_empty()
    assert ledger.register(["trove", "datadog"], OPEN) == ids
    assert bodies(pending_at(ledger, ids["datadog"], 0, 10)) == all_of(before)
    assert not ledger.is_empty()


def test_a_delivery_that_another_destination_took_counts_there_and_waits_nowhere(
    files: OutboxFiles, ledger: Ledger
) -> None:
    first, second = ledger.register(["first", "second"], OPEN).values()
    ledger.take_in(appended(files, "a", "b", "c"), [first])
    one, two, three = (each.event for each in pending_at(ledger, first, 0, 10))
    # As after a replay: the second has had one of them before, which was dead.
    ledger.take_in(appended(files, "d"), [first, second])
    ledger.end([Ended(second, 4, DEAD, 1)], 1.0)
    ledger.end([Ended(first, one, DELIVERED, 1)], 1.0)

    ledger.end(
        [
            Ended(first, one, DELIVERED, 1, taken_by=second),
            Ended(first, two, DELIVERED, 1, taken_by=second),
            Ended(first, three, DEAD, 1),
            Ended(first, 4, DELIVERED, 1, taken_by=second),
        ],
        2.0,
    )

    assert ledger.is_empty()
    found = {each.name: (each.delivered, each.dead) for each in read_status(files).destinations}
    assert found == {"first": (1, 1), "second": (2, 0)}


def test_a_failed_try_is_written_down_until_the_delivery_has_ended(
    files: OutboxFiles, ledger: Ledger
) -> None:
    one = ledger.register(["trove"], OPEN)["trove"]
    ledger.take_in(appended(files, "a"), [one])

    ledger.tried([Tried(one, 1, 3, 2, 5.0, 6.0, 503, "503 busy")])
    (waits,) = pending_at(ledger, one, 0, 10)
    assert (waits.attempts, waits.charged, waits.first_at, waits.charged_at) == (3, 2, 5.0, 6.0)

    ledger.end([Ended(one, 1, DELIVERED, 4, 5.0, 201)], 7.0)
    ledger.tried([Tried(one, 1, 9, 9, 9.0, 9.0, 500, "late")])
    assert query(files, "SELECT attempts, first_at, ended_at, status FROM delivery") == (4, 5.0, 7.0, 201)


@pytest.mark.parametrize(("state", "attempts"), [(DEAD, 1), (DEAD, 3), (DELIVERED, 2)])
def test_deliveries_that_end_alike_have_each_their_own_first_time(
    files: OutboxFiles, ledger: Ledger, state: DeliveryState, attempts: int
) -> None:
    one = ledger.register(["trove"], OPEN)["trove"]
    ledger.take_in(appended(files, "a", "b", "c"), [one])
    ledger.tried([Tried(one, 3, 1, 0, 5.0, None, 503, "503 busy")])

    ledger.end([Ended(one, event, state, attempts, 10.0 - event, 400) for event in (1, 2, 3)], 20.0)

    assert query(files, "SELECT group_concat(first_at, ' ' ORDER BY event) FROM delivery") == "9.0 8.0 5.0"


def test_deliveries_taken_at_the_first_try_share_the_time_of_the_first(
    files: OutboxFiles, ledger: Ledger
) -> None:
    one = ledger.register(["trove"], OPEN)["trove"]
    ledger.take_in(appended(files, "a", "b", "c"), [one])

    ledger.end([Ended(one, event, DELIVERED, 1, 10.0 - event, 201) for event in (1, 2, 3)], 20.0)

    assert query(files, "SELECT group_concat(first_at, ' ') FROM delivery") == "7.0 7.0 7.0"


# The file


def test_its_files_are_their_owners_alone_whatever_the_umask(files: OutboxFiles) -> None:
    before = os.umask(0)
    try:
        ledger = Ledger(files)
        ledger.register(["trove"], OPEN)
    finally:
        os.umask(before)

    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files.folder.glob("ledger*")}
    ledger.close()
    assert found == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600}


def test_an_empty_file_becomes_a_ledger_of_todays_schema(files: OutboxFiles) -> None:
    # What a relay leaves that is killed between making the file and making its tables.
    files.create()
    files.ledger.touch()

    Ledger(files).close()

    assert query(files, "PRAGMA user_version") == len(STEPS)
    assert query(files, "PRAGMA journal_mode") == "wal"
    assert query(files, "SELECT count(*) FROM event") == 0


@pytest.mark.parametrize(("power", "synchronous"), [(False, 1), (True, 2)])
def test_a_ledger_waits_for_the_disk_where_it_is_to_outlive_a_power_cut(
    files: OutboxFiles, power: bool, synchronous: int
) -> None:
    opened = Ledger(files, power=power)
    assert opened.db.pragma("synchronous") == synchronous
    opened.close()


def test_a_segment_whose_number_is_in_the_archive_isnt_made_again(
    files: OutboxFiles, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = appended(files, "a")
    ledger.take_in(first, [])
    assert retire(files, first.segment, first.position)
    # Its file was lost, and the clock has been set back.
    files.journal_lock.unlink()
    monkeypatch.setattr(time, "time_ns", lambda: 5)

    assert appended(files, "b").segment == first.segment + 1


def test_what_a_ledger_holds_is_there_when_it_is_opened_again(files: OutboxFiles) -> None:
    ledger = Ledger(files)
    one = ledger.register(["trove"], OPEN)["trove"]
    batch = appended(files, "a")
    ledger.take_in(batch, [one])
    ledger.close()

    again = Ledger(files)
    assert again.register(["trove"], OPEN)["trove"] == one
    assert again.position(batch.segment) == batch.position
    assert bodies(pending_at(again, one, 0, 10)) == all_of(batch)
    again.close()


def test_a_ledger_of_a_newer_keepline_is_refused_and_left_as_it_is(files: OutboxFiles) -> None:
    Ledger(files).close()
    connection = apsw.Connection(str(files.ledger))
    connection.pragma("user_version", len(STEPS) + 1)
    connection.close()

    with pytest.raises(OutboxDamaged, match=r"written by a newer Keepline .* install that version again"):
        Ledger(files)

    assert query(files, "PRAGMA user_version") == len(STEPS) + 1


def test_a_file_that_is_no_database_is_refused_with_the_remedy(files: OutboxFiles) -> None:
    files.create()
    files.ledger.write_bytes(b"no database at all" * 1000)

    with pytest.raises(OutboxDamaged, match=r"the next relay sets it aside .* run `keepline flush`"):
        Ledger(files)


def test_another_programs_database_is_refused_and_left_as_it_is(files: OutboxFiles) -> None:
    files.create()
    connection = apsw.Connection(str(files.ledger))
    connection.execute("CREATE TABLE event (id)")
    connection.close()

    with pytest.raises(OutboxDamaged, match="already exists"):
        Ledger(files)

    assert query(files, "SELECT group_concat(name) FROM sqlite_schema") == "event"


def test_a_ledger_with_a_damaged_page_says_so(files: OutboxFiles) -> None:
    ledger = Ledger(files)
    one = ledger.register(["trove"], OPEN)["trove"]
    ledger.take_in(appended(files, *(str(number) for number in range(300)), size=1000), [one])
    ledger.close()
    data = bytearray(files.ledger.read_bytes())
    data[4096 * 3 :] = b"\xa5" * (len(data) - 4096 * 3)
    files.ledger.write_bytes(data)

    damaged = Ledger(files)
    with pytest.raises(OutboxDamaged, match="saves what can be read of it"):
        pending_at(damaged, one, 0, 1000)
    damaged.close()


def test_a_folder_in_place_of_the_file_is_refused_with_the_remedy(files: OutboxFiles) -> None:
    files.ledger.mkdir(parents=True)

    with pytest.raises(OutboxUnavailable, match=r"can't open the ledger .*; let this user read and write it"):
        Ledger(files)


def test_an_sqlite_that_can_damage_a_ledger_isnt_used(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")

    with pytest.raises(OutboxUnavailable, match=r"install apsw 3\.51\.3 or later"):
        Ledger(files)
    assert not files.ledger.exists()


def test_a_ledger_on_a_full_disk_refuses_to_write_and_goes_on_when_there_is_space_again(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", kilobytes=2000) as disk:
        files = OutboxFiles(disk / "outbox")
        ledger = Ledger(files)
        one = ledger.register(["trove"], OPEN)["trove"]
        first = appended(files, "a", "b", size=10_000)
        ledger.take_in(first, [one])
        second = appended(files, *"cdefghij", size=20_000)
        filler = fill(disk)

        with pytest.raises(OutboxUnavailable, match="free some space on that disk"):
            ledger.take_in(second, [one])
        assert ledger.position(second.segment) == first.position
        assert bodies(pending_at(ledger, one, 0, 100)) == all_of(first)

        filler.unlink()
        ledger.take_in(second, [one])
        assert bodies(pending_at(ledger, one, 0, 100)) == all_of(first) + all_of(second)
        ledger.close()


def test_a_ledger_that_another_process_keeps_locked_is_refused_within_its_bound(
    files: OutboxFiles, ledger: Ledger, tmp_path: Path
) -> None:
    reports = Reports(tmp_path / "reports")

    def keep_locked() -> None:
        connection = apsw.Connection(str(files.ledger))
        connection.execute("BEGIN IMMEDIATE")
        reports.accepted("locked")
        wait_for_the_kill()

    with child(keep_locked) as other:
        until(reports.read)
        with pytest.raises(OutboxLocked, match="another process holds it"):
            ledger.register(["trove"], OPEN)
        other.kill()
    assert ledger.register(["trove"], OPEN) == {"trove": 1}


def test_a_long_reader_sees_one_instant_and_holds_nobody_up(
    files: OutboxFiles, ledger: Ledger, tmp_path: Path
) -> None:
    one = ledger.register(["trove"], OPEN)["trove"]
    ledger.take_in(appended(files, "a"), [one])
    reports, results = Reports(tmp_path / "reports"), Reports(tmp_path / "results")
    reading, writing = os.pipe()

    def look_for_long() -> None:
        connection = apsw.Connection(str(files.ledger), flags=apsw.SQLITE_OPEN_READONLY)
        with connection:
            results.accepted(str(connection.execute("SELECT count(*) FROM event").get))
            reports.accepted("reading")
            os.read(reading, 1)
            results.accepted(str(connection.execute("SELECT count(*) FROM event").get))

    with child(look_for_long) as reader:
        until(reports.read)
        for name in "bcdef":
            ledger.take_in(appended(files, name), [one])
        ledger.end([Ended(one, each.event, DELIVERED, 1) for each in pending_at(ledger, one, 0, 10)], 1.0)
        os.write(writing, b"x")
        assert reader.end() == 0

    assert results.read() == ["1", "1"]
    assert query(files, "SELECT count(*) FROM event") == 6
