"""Damage that a lane's reading meets: it ends the relay, and has the next one repair the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support_outbox import close_producers, event, producer, take_all_in

from keepline.errors import OutboxDamaged
from keepline.outbox.files import OutboxFiles
from keepline.outbox.ledger import Ledger
from keepline.outbox.repair import open_repaired
from keepline.outbox.waiting import Waiting

MANY = 1 << 30


@pytest.fixture
def files(tmp_path: Path) -> Iterator[OutboxFiles]:
    yield OutboxFiles(tmp_path / "outbox")
    close_producers()


@pytest.fixture
def ledger(files: OutboxFiles) -> Iterator[Ledger]:
    opened = Ledger(files)
    appender = producer(files)
    for number in range(300):
        appender.append(event(str(number), run=f"run {number}", size=200))
    take_all_in(files, opened, [opened.register(["trove"], "open")["trove"]])
    yield opened
    opened.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE event SET length = 1 << 60 WHERE id = 150",
        "UPDATE event SET length = -5 WHERE id = 150",
        "UPDATE event SET length = 'y', position = 'x' WHERE id = 150",
        "UPDATE event SET position = NULL WHERE id = 150",
        "UPDATE event SET segment = x'00' WHERE id = 150",
        "UPDATE event SET segment = NULL WHERE id = 150; INSERT INTO body VALUES (150, 'text')",
        "UPDATE event SET segment = NULL WHERE id = 150; INSERT INTO body VALUES (150, 7)",
        "UPDATE event SET run_key = x'ff' WHERE id = 150",
        "UPDATE event SET run_key = CAST(x'ff' AS TEXT) WHERE id = 150",
        "UPDATE delivery SET attempts = 'many' WHERE event = 150",
        "UPDATE delivery SET charged = -1 WHERE event = 150",
        "UPDATE delivery SET first_at = 'once' WHERE event = 150",
    ],
)
def test_a_row_that_isnt_one_of_ours_is_left_to_the_next_relay_to_repair(
    files: OutboxFiles, ledger: Ledger, damage: str
) -> None:
    ledger.db.execute(damage)
    waiting = Waiting(ledger, 1)

    assert len(waiting.beyond(0, 100, MANY)[0]) == 100
    with pytest.raises(OutboxDamaged):
        waiting.beyond(100, 100, MANY)
    assert files.suspect.exists()
    ledger.close()

    repaired = open_repaired(files)
    found = Waiting(repaired, 1).beyond(0, 1000, MANY)[0]
    assert len(found) + repaired.db.execute("SELECT count(*) FROM unplaced").get == 300
    repaired.close()


def test_a_row_of_a_run_that_isnt_one_of_ours_is_damage_too(files: OutboxFiles, ledger: Ledger) -> None:
    ledger.db.execute("UPDATE event SET length = 1 << 60 WHERE id = 150")

    with pytest.raises(OutboxDamaged, match="the row of event 150 in the ledger isn't one"):
        Waiting(ledger, 1).of_run("run 149", 1, 300, 10, MANY)
    assert files.suspect.exists()


def test_a_damaged_page_that_only_a_lane_reads_is_left_to_the_next_relay_to_repair(
    files: OutboxFiles, ledger: Ledger
) -> None:
    ledger.close()
    data = bytearray(files.ledger.read_bytes())
    (at, *_) = (
        begin
        for begin in range(4096, len(data), 4096)
        if data[begin] == 13 and b"run 200" in data[begin : begin + 4096]
    )
    data[at : at + 64] = b"\xa5" * 64
    files.ledger.write_bytes(data)
    damaged = open_repaired(files)
    assert not files.suspect.exists()

    with pytest.raises(OutboxDamaged, match="saves what can be read of it"):
        Waiting(damaged, 1).beyond(0, 1000, MANY)
    assert files.suspect.exists()
    damaged.close()


def test_a_mark_that_is_no_number_is_left_to_the_next_relay_to_repair(
    files: OutboxFiles, ledger: Ledger
) -> None:
    segment = ledger.db.execute("SELECT segment FROM mark").get
    ledger.db.execute("UPDATE mark SET position = 'far'")

    with pytest.raises(OutboxDamaged, match="says 'far' in place of a number"):
        ledger.position(int(segment))
    assert files.suspect.exists()


def test_bytes_bound_what_is_read_but_for_the_first(ledger: Ledger) -> None:
    waiting = Waiting(ledger, 1)

    assert [len(waiting.beyond(0, 10, most)[0]) for most in (1, 800)] == [1, 2]
    found, more = waiting.beyond(0, 10, 1, without={f"run {number}" for number in range(5)})
    assert [one.body for one in found[:5]] == [b""] * 5
    assert (len(found), more) == (5, True)
    assert waiting.beyond(295, 10, MANY)[1] is False
