"""Outboxes that older versions have left: taken over as they are, whatever interrupts it."""

from __future__ import annotations

import random
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.support_outbox import child, pending_at, query
from tests.support_relay import (
    ThreadedRelay,
    account,
    append,
    arrive_once,
    dead_letters,
    leg,
    names_in,
    settled,
    status_of,
    until,
)

from keepline.demo.destination import RecordingDestination
from keepline.outbox.files import OutboxFiles
from keepline.outbox.ledger import Ledger
from keepline.outbox.repair import open_repaired
from keepline.outbox.schema import STEPS

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

OLD = Path(__file__).parents[1] / "data" / "outbox-1"

Deliver = Callable[..., ThreadedRelay]


@pytest.fixture(params=["closed", "killed"])
def old(request: pytest.FixtureRequest, outbox: Path) -> Path:
    """An outbox of schema 1; see tests/data/outbox-1/make.py."""
    with tarfile.open(OLD / f"{request.param}.tar.gz") as archive:
        # Python's security fix of 2023 brought the filter; Debian 12's is from before it, and asks for none.
        filtered: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(outbox.parent, **filtered)
    return outbox


def jobs(*numbers: int) -> list[str]:
    return [f"job {number}" for number in numbers]


def test_a_relay_of_today_delivers_what_an_old_outbox_holds_and_keeps_what_it_knows(
    old: Path, deliver: Deliver, destination: RecordingDestination, other: RecordingDestination
) -> None:
    files = OutboxFiles(old)
    append(old, ["new"])
    relay = deliver({"trove": leg(destination)})
    arrive_once(destination, [*jobs(3, 4, 5, 6, 7, 8, 9, 10), "new"])
    until(lambda: settled(old))
    relay.stop()

    assert query(files, "PRAGMA user_version") == len(STEPS)
    assert not files.damaged.joinpath("ledger.db").exists()
    assert account(old, "trove") == {"delivered": 11, "dead": 1, "pending": 0}
    datadog = status_of(old, "datadog")
    assert (datadog.active, datadog.pending, datadog.delivered, datadog.dead) == (False, 4, 1, 1)
    assert sorted(dead_letters(old)) == ["400 no", "413 large"]
    letters = "SELECT group_concat(CAST(body AS TEXT)) FROM body WHERE event IN (2, 3)"
    assert str(query(files, letters)).count("job 1") == 1
    assert str(query(files, letters)).count("job 2") == 1
    # An old outbox's first damage: what a killed process had torn is no record, and is kept.
    assert len(list(files.damaged.glob("*.bin"))) == 1

    deliver({"trove": leg(destination), "datadog": leg(other)})
    arrive_once(other, jobs(2, 3, 4, 5))
    assert len(names_in(destination)) == 9


def test_an_old_ledger_that_is_damaged_is_repaired_with_the_bodies_that_can_be_read(
    old: Path, deliver: Deliver, destination: RecordingDestination
) -> None:
    files = OutboxFiles(old)
    files.suspect.touch()

    deliver({"trove": leg(destination)})
    # Those of the first version are known by their bodies, not by their places: some come twice.
    until(lambda: set(jobs(3, 4, 5, 6, 7, 8, 9, 10)) <= set(names_in(destination)))
    until(lambda: settled(old))
    assert account(old, "trove")["dead"] == 1
    letters = "SELECT group_concat(CAST(body AS TEXT)) FROM body JOIN delivery USING (event) WHERE state = 2"
    assert "job 2" in str(query(files, letters))


def test_a_migration_that_is_killed_leaves_the_old_ledger_or_the_new_one(outbox: Path) -> None:
    files = OutboxFiles(outbox)
    files.create()
    events = 4000
    connection = apsw.Connection(str(files.ledger))
    connection.pragma("auto_vacuum", "incremental")
    connection.pragma("journal_mode", "wal")
    with connection:
        connection.execute(STEPS[0])
        connection.pragma("user_version", 1)
        connection.execute(
            "INSERT INTO destination (name, active, state, since) VALUES ('trove', 1, 'open', 1)"
        )
        connection.executemany(
            "INSERT INTO event VALUES (?, 1, 'START', 'run', 'tests', 'job', ?)",
            ((number, b"%d " % number * 600) for number in range(1, events + 1)),
        )
        connection.execute("INSERT INTO delivery (destination, event, state) SELECT 1, id, 0 FROM event")
    connection.close()
    began = time.perf_counter()
    copy = OutboxFiles(outbox.parent / "copy")
    copy.create()
    copy.ledger.write_bytes(files.ledger.read_bytes())
    Ledger(copy).close()
    took = time.perf_counter() - began
    chance = random.Random(1)
    killed = 0

    while query(files, "PRAGMA user_version") == 1 and killed < 15:
        with child(lambda: open_repaired(files).close()) as relay:
            time.sleep(chance.random() * took)
            killed += relay.kill() < 0
        assert query(files, "PRAGMA integrity_check") == "ok"
        if query(files, "PRAGMA user_version") == 1:
            assert query(files, "SELECT count(*) FROM event WHERE length(body) > 1000") == events

    ledger = open_repaired(files)
    bodies = [one.body for one in pending_at(ledger, 1, 0, events, most_bytes=1 << 40)]
    ledger.close()
    assert bodies == [b"%d " % number * 600 for number in range(1, events + 1)]
    assert killed > 0
    assert not files.damaged.exists()
