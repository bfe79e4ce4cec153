from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from keepline.relay import pruner
from keepline.relay.pruner import Pruner
from keepline.tuning import Tuning

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


def statements(ledger: Ledger, action: Callable[[], object]) -> list[str]:
    """What an action asks of the ledger."""
    asked: list[str] = []

    def note(cursor: object, sql: str, bindings: object) -> bool:
        asked.append(sql)
        return True

    ledger.db.exec_trace = note
    try:
        action()
    finally:
        ledger.db.exec_trace = None
    return asked


def test_a_step_looks_at_one_segment_and_no_further_than_it_has_to(
    files: OutboxFiles, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished, "_SMALL", 0)
    archive_of(files, ledger, 60)
    one = Pruning(files, ledger)
    one.begin()

    for _ in archived_numbers(files):
        asked = statements(ledger, lambda: one.step(LATER, pressed=True))
        assert sum("delivery_pending" in sql for sql in asked) == 1
        assert not any("ORDER BY" in sql or "UNION SELECT" in sql for sql in asked)
    assert not one.step(LATER, pressed=True)
    assert one.deleted == 0


def test_what_keeps_a_segment_is_remembered_until_it_has_ended_or_for_a_time(
    files: OutboxFiles, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished, "_SMALL", 0)
    (trove,) = archive_of(files, ledger, 60, "trove")
    archived = archived_numbers(files)
    one = Pruning(files, ledger)

    def looked_at() -> int:
        def go_round() -> None:
            one.begin()
            while one.step(LATER, pressed=True):
                pass

        return sum("delivery_pending" in sql and "UNION ALL" in sql for sql in statements(ledger, go_round))

    assert looked_at() == len(archived)
    assert looked_at() == 0
    first = query(files, f"SELECT last_event FROM mark WHERE segment = {archived[0]}")
    end_all(ledger, trove, but=set(range(int(str(first)) + 1, 100)))
    assert looked_at() == 1
    assert archived_numbers(files) == archived[1:]
    monkeypatch.setattr(finished, "_LOOK_AGAIN", 0.0)
    assert looked_at() == len(archived) - 1


def pruner_of(files: OutboxFiles, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Pruner:
    """One of an outbox that is full by its bound."""
    monkeypatch.setattr(finished, "_SMALL", 0)
    return Pruner(files, ledger, replace(Tuning(), max_bytes=1))


def test_after_a_step_that_only_looked_deliveries_have_the_relay_to_themselves(
    files: OutboxFiles, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruner, "_PAUSE", 1e6)
    archive_of(files, ledger, 60)
    one = pruner_of(files, ledger, monkeypatch)

    pause = one.look()
    assert pause is not None
    assert pause > 1.0
    again: list[float | None] = []
    assert statements(ledger, lambda: again.append(one.look())) == []
    assert again[0] is not None
    assert 0.0 < again[0] <= pause


def test_steps_that_delete_follow_one_another_and_rounds_that_find_nothing_shrink_nothing(
    files: OutboxFiles, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruner, "_PAUSE", 0)
    monkeypatch.setattr(pruner, "_LOOK_EVERY", 0)
    trove, datadog = archive_of(files, ledger, 60)
    end_all(ledger, trove)
    one = pruner_of(files, ledger, monkeypatch)
    log = files.ledger.with_name("ledger.db-wal")

    while one.look() is not None:
        pass
    assert len(archived_numbers(files)) > 4
    assert log.stat().st_size > 0
    end_all(ledger, datadog)
    monkeypatch.setattr(pruner, "_PAUSE", 1e6)
    while archived_numbers(files):
        pause = one.look()
        # Up to the look at the next one.
        while pause == 0.0:
            pause = one.look()
        monkeypatch.setattr(one, "_next_step", 0.0)
    while one.look() is not None:
        monkeypatch.setattr(one, "_next_step", 0.0)
    assert log.stat().st_size == 0


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
