from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support_outbox import (
    Reports,
    child,
    close_producers,
    event,
    pending_at,
    producer,
    query,
    take_all_in,
    until,
)

from keepline.outbox import finished, pruning
from keepline.outbox.archive import archived_numbers, archived_path
from keepline.outbox.check import damage_in
from keepline.outbox.delivery import DeliveryState, Ended
from keepline.outbox.files import OutboxFiles
from keepline.outbox.ledger import Ledger
from keepline.outbox.pruning import Pruning
from keepline.outbox.repair import open_repaired

DELIVERED, DEAD = DeliveryState.DELIVERED, DeliveryState.DEAD
SEGMENT = 4000
LATER = time.time() + 1e6
"""s since 1970: a time before which whatever these tests do has ended."""


@pytest.fixture
def files(tmp_path: Path) -> Iterator[OutboxFiles]:
    yield OutboxFiles(tmp_path / "outbox")
    close_producers()


@pytest.fixture
def ledger(files: OutboxFiles) -> Iterator[Ledger]:
    opened = Ledger(files)
    yield opened
    opened.close()


def archive_of(files: OutboxFiles, ledger: Ledger, events: int, *names: str) -> list[int]:
    """Events of two destinations or others, all but the last few in archived segments; gives the ids."""
    ids = list(ledger.register(names or ["trove", "datadog"], "open").values())
    appender = producer(files, segment_bytes=SEGMENT)
    for number in range(events):
        appender.append(event(str(number), size=500))
    take_all_in(files, ledger, ids, segment_bytes=SEGMENT)
    return ids


def end_all(ledger: Ledger, destination: int, *, but: set[int] | frozenset[int] = frozenset()) -> None:
    waiting = pending_at(ledger, destination, 0, 10_000, most_bytes=1 << 30)
    ledger.end([Ended(destination, one.event, DELIVERED, 1) for one in waiting if one.event not in but], 1e9)


def prune(files: OutboxFiles, ledger: Ledger, before: float = LATER, *, pressed: bool = False) -> None:
    one = Pruning(files, ledger)
    one.begin()
    while one.step(before, pressed=pressed):
        pass


def test_segments_whose_events_ended_long_ago_go_and_the_ledger_forgets_them(
    files: OutboxFiles, ledger: Ledger
) -> None:
    ids = archive_of(files, ledger, 40)
    for one in ids:
        end_all(ledger, one)
    archived = archived_numbers(files)
    in_journal = query(files, f"SELECT count(*) FROM event WHERE segment > {archived[-1]}")
    assert len(archived) > 4

    prune(files, ledger)

    assert archived_numbers(files) == []
    assert query(files, "SELECT count(*) FROM event") == in_journal
    assert query(files, "SELECT count(*) FROM delivery") == 2 * in_journal
    assert query(files, "SELECT count(*) FROM mark") == 1
    assert query(files, "SELECT sum(delivered) FROM destination") == 80


def test_what_ended_lately_and_young_segments_stay(files: OutboxFiles, ledger: Ledger) -> None:
    (one,) = archive_of(files, ledger, 40, "trove")
    before = archived_numbers(files)
    waiting = pending_at(ledger, one, 0, 100)
    ledger.end([Ended(one, each.event, DELIVERED, 1) for each in waiting], time.time())

    prune(files, ledger, before=time.time() - 100)
    assert archived_numbers(files) == before
    # Older than that by the clock of their names, and ended later all the same.
    ledger.db.execute("UPDATE delivery SET ended_at = 9e12")
    prune(files, ledger)
    assert archived_numbers(files) == before
    assert query(files, "SELECT count(*) FROM event") == 40


def test_where_space_is_short_whatever_has_ended_goes(files: OutboxFiles, ledger: Ledger) -> None:
    (one,) = archive_of(files, ledger, 40, "trove")
    end_all(ledger, one, but={35})
    ledger.db.execute("UPDATE delivery SET ended_at = unixepoch('subsec') WHERE state = 1")

    prune(files, ledger, before=0.0, pressed=True)

    assert archived_numbers(files) == []
    assert [each.event for each in pending_at(ledger, one, 0, 10)] == [35]


def test_a_dead_letter_and_a_straggler_keep_their_bodies_when_their_segment_goes(
    files: OutboxFiles, ledger: Ledger
) -> None:
    trove, datadog = archive_of(files, ledger, 40)
    ledger.register(["trove"], "open")
    end_all(ledger, trove, but={3})
    ledger.end([Ended(trove, 3, DEAD, 1, answer="400")], 1.0)
    end_all(ledger, datadog, but={5, 12})

    prune(files, ledger)
    prune(files, ledger)

    assert archived_numbers(files) == []
    found = pending_at(ledger, datadog, 0, 10)
    assert [(one.event, one.body) for one in found] == [
        (5, event("4", size=500).body),
        (12, event("11", size=500).body),
    ]
    assert query(files, "SELECT answer FROM delivery WHERE state = 2") == "400"
    assert query(files, "SELECT body FROM body WHERE event = 3") == event("2", size=500).body

    ledger.end([Ended(datadog, 5, DELIVERED, 1), Ended(datadog, 12, DELIVERED, 1)], 1.0)
    prune(files, ledger)
    assert query(files, "SELECT group_concat(event) FROM body") == "3"


def test_a_segment_with_much_that_waits_stays_until_it_has_ended(
    files: OutboxFiles, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished, "_SMALL", 0)
    (one,) = archive_of(files, ledger, 40, "trove")
    archived = archived_numbers(files)
    kept = {1, 2, 3}
    end_all(ledger, one, but=kept)

    prune(files, ledger)
    assert archived_numbers(files) == archived[:1]
    assert query(files, "SELECT count(*) FROM body") == 0

    end_all(ledger, one)
    prune(files, ledger)
    assert archived_numbers(files) == []


def test_events_of_a_forgotten_destination_hold_nothing(files: OutboxFiles, ledger: Ledger) -> None:
    trove, datadog = archive_of(files, ledger, 40)
    end_all(ledger, trove)
    with ledger.transaction():
        ledger.db.execute("DELETE FROM delivery WHERE destination = ?", (datadog,))
        ledger.db.execute("DELETE FROM destination WHERE id = ?", (datadog,))

    prune(files, ledger)

    assert archived_numbers(files) == []


def test_a_dead_letter_whose_record_is_damaged_is_kept_without_its_body(
    files: OutboxFiles, ledger: Ledger
) -> None:
    (one,) = archive_of(files, ledger, 40, "trove")
    end_all(ledger, one, but={2})
    ledger.end([Ended(one, 2, DEAD, 1, answer="400")], 1.0)
    path = archived_path(files, archived_numbers(files)[0])
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[900] ^= 1
    path.write_bytes(data)
    ledger.bodies.close()

    prune(files, ledger)

    assert archived_numbers(files) == []
    assert query(files, "SELECT event, answer FROM delivery WHERE state = 2") == (2, "400")
    assert query(files, "SELECT count(*) FROM body") == 0


def test_a_mark_whose_segment_somebody_deleted_goes_with_its_events(
    files: OutboxFiles, ledger: Ledger
) -> None:
    (one,) = archive_of(files, ledger, 40, "trove")
    end_all(ledger, one)
    for number in archived_numbers(files)[:2]:
        archived_path(files, number).unlink()

    prune(files, ledger)

    assert query(files, "SELECT count(*) FROM mark") == 1


def test_space_that_an_outage_took_is_given_back_to_the_disk(
    files: OutboxFiles, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "_SPARE_PAGES", 20)
    monkeypatch.setattr(pruning, "_VACUUM_PAGES", 16)
    (one,) = archive_of(files, ledger, 3000, "trove")
    ledger.checkpoint()
    before = files.ledger.stat().st_size
    end_all(ledger, one)

    prune(files, ledger)
    ledger.checkpoint()

    assert before > 300_000
    assert files.ledger.stat().st_size < before / 2


def test_a_relay_killed_at_any_instant_of_pruning_leaves_nothing_dangling(
    files: OutboxFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "_STEP", 7)
    chance = random.Random(7)
    ledger = Ledger(files)
    trove, datadog = archive_of(files, ledger, 600)
    dead = set(range(4, 600, 40))
    end_all(ledger, trove, but=dead)
    ledger.end([Ended(trove, one, DEAD, 1) for one in dead], 1.0)
    end_all(ledger, datadog, but={9})
    ledger.close()
    segments = len(archived_numbers(files))
    reports = Reports(tmp_path / "reports")

    def prune_slowly() -> None:
        opened = open_repaired(files)
        one = Pruning(files, opened)
        one.begin()
        while one.step(LATER, pressed=False):
            reports.accepted("x")

    killed = 0
    while archived_numbers(files):
        steps = len(reports.read())
        with child(prune_slowly) as relay:
            until(lambda steps=steps: len(reports.read()) > steps + 2 or relay.has_ended())
            time.sleep(chance.random() * 0.005)
            killed += relay.kill() < 0
        looked_at = open_repaired(files)
        assert damage_in(files, looked_at.db) is None
        assert not files.damaged.exists()
        waiting = pending_at(looked_at, datadog, 0, 10)
        assert [(one.event, one.body) for one in waiting] == [(9, event("8", size=500).body)]
        letters = (
            "SELECT id, segment, position, length FROM event JOIN delivery ON event = id WHERE state = 2"
        )
        for number, *place in looked_at.db.execute(letters).fetchall():
            body = looked_at.db.execute("SELECT body FROM body WHERE event = ?", (number,)).get
            if place[0] is not None:
                (body,) = looked_at.bodies.read([pruning.Place(*place)])
            assert body == event(str(number - 1), size=500).body
        looked_at.close()

    assert killed > 5
    assert segments > 60
    ledger = Ledger(files)
    prune(files, ledger)
    left = (
        "SELECT count(*) FROM event WHERE segment IS NOT NULL AND segment NOT IN (SELECT segment FROM mark)"
    )
    assert query(files, left) == 0
    assert query(files, "SELECT count(*) FROM body") == len(dead) + 1
    assert query(files, "SELECT sum(delivered), sum(dead) FROM destination") == (
        1200 - len(dead) - 1,
        len(dead),
    )
    ledger.close()
