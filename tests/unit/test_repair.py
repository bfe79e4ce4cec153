"""Damage that is done to an outbox's files, and what is left of it when the relay has opened the ledger."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support_outbox import close_producers, event, producer, query, take_all_in

from keepline.errors import OutboxDamaged
from keepline.outbox import repair
from keepline.outbox.check import damage_in
from keepline.outbox.delivery import DeliveryState, Ended
from keepline.outbox.files import OutboxFiles
from keepline.outbox.ledger import Ledger
from keepline.outbox.repair import open_repaired
from keepline.relay.inbound import Inbound
from keepline.tuning import Tuning

DELIVERED, DEAD = DeliveryState.DELIVERED, DeliveryState.DEAD
EVENTS = 400
SEGMENT = 16_000
NAMES = [str(number) for number in range(EVENTS)]

Damaging = Callable[[OutboxFiles, random.Random], None]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[OutboxFiles]:
    yield OutboxFiles(tmp_path / "outbox")
    close_producers()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OutboxFiles]:
    """An outbox with everything in it, whose relay has been killed."""
    files = OutboxFiles(tmp_path_factory.mktemp("made") / "outbox")
    ledger = Ledger(files)
    ids = list(ledger.register(["trove", "datadog"], "open").values())
    appender = producer(files, segment_bytes=SEGMENT)
    for name in NAMES[:-20]:
        appender.append(event(name, size=300))
    take_all_in(files, ledger, ids, segment_bytes=SEGMENT)
    for one in ids:
        waiting = ledger.pending(one, 0, 100)
        ledger.end([Ended(one, each.event, DELIVERED, 1, 1.0, 201) for each in waiting[5:]], 2.0)
        ledger.end([Ended(one, each.event, DEAD, 1, 1.0, 400, "400 bad") for each in waiting[:5]], 2.0)
    ledger.checkpoint()
    # These stand in the log alone.
    for one in ids:
        waiting = ledger.pending(one, 0, 50)
        ledger.end([Ended(one, each.event, DELIVERED, 1, 1.0, 201) for each in waiting], 2.0)
    for name in NAMES[-20:-10]:
        appender.append(event(name, size=300))
    take_all_in(files, ledger, ids, segment_bytes=SEGMENT)
    for name in NAMES[-10:]:
        appender.append(event(name, size=300))
    yield files
    ledger.close()
    close_producers()


@pytest.fixture
def broken(made: OutboxFiles, files: OutboxFiles, monkeypatch: pytest.MonkeyPatch) -> OutboxFiles:
    """A copy of it, to be damaged, of which the relay looks at all at every start."""
    monkeypatch.setattr(repair, "_CHECK_EVERY", 0.0)
    shutil.copytree(made.folder, files.folder)
    return files


def deliver_all(files: OutboxFiles) -> dict[str, set[str]]:
    """What a relay does, which begins anew where it meets damage; gives what is there of each destination."""
    for _ in range(4):
        ledger = None
        try:
            ledger = open_repaired(files)
            ids = ledger.register(["trove", "datadog"], "open")
            received = _deliver(files, ledger, ids)
        except OutboxDamaged:
            continue
        else:
            return received
        finally:
            if ledger is not None:
                ledger.close()
    raise AssertionError("every relay met damage")


def _deliver(files: OutboxFiles, ledger: Ledger, ids: dict[str, int]) -> dict[str, set[str]]:
    inbound = Inbound(files, ledger, Tuning(segment_bytes=SEGMENT), list(ids.values()))
    while inbound.take_in() is not None:
        pass
    for ident in ids.values():
        after = 0
        while waiting := ledger.pending(ident, after, 64):
            after = waiting[-1].event
            ended = [
                Ended(ident, one.event, DEAD if one.body is None else DELIVERED, one.attempts + 1)
                for one in waiting
            ]
            ledger.end(ended, time.time())
    rows = "SELECT job_name FROM delivery JOIN event ON event.id = delivery.event WHERE destination = ?"
    return {
        name: {str(job) for (job,) in ledger.db.execute(rows, (ident,)).fetchall()}
        for name, ident in ids.items()
    }


def ledgers(files: OutboxFiles) -> list[Path]:
    """Those that were set aside."""
    return sorted(files.damaged.glob("*-ledger*")) if files.damaged.exists() else []


def flip(path: Path, chance: random.Random, many: int = 1) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(many):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def flip_in_ledger(files: OutboxFiles, chance: random.Random) -> None:
    flip(files.ledger, chance, many=chance.choice([1, 1, 3, 30]))


def flip_in_first_page(files: OutboxFiles, chance: random.Random) -> None:
    with files.ledger.open("r+b") as file:
        file.seek(chance.randrange(100) if chance.random() < 0.5 else chance.randrange(4096))
        file.write(bytes([chance.randrange(256)]))


def zero_pages(files: OutboxFiles, chance: random.Random) -> None:
    pages = files.ledger.stat().st_size // 4096
    with files.ledger.open("r+b") as file:
        for _ in range(chance.choice([1, 2, 8])):
            file.seek(4096 * chance.randrange(pages))
            file.write(bytes(4096))


def fill_pages_with_noise(files: OutboxFiles, chance: random.Random) -> None:
    pages = files.ledger.stat().st_size // 4096
    with files.ledger.open("r+b") as file:
        file.seek(4096 * chance.randrange(pages))
        file.write(chance.randbytes(4096))


def truncate_ledger(files: OutboxFiles, chance: random.Random) -> None:
    size = files.ledger.stat().st_size
    with files.ledger.open("r+b") as file:
        file.truncate(chance.choice([0, 1, 99, 100, 4096, 8192, chance.randrange(size)]))


def _log(files: OutboxFiles) -> Path:
    return files.folder / "ledger.db-wal"


def truncate_log(files: OutboxFiles, chance: random.Random) -> None:
    with _log(files).open("r+b") as file:
        file.truncate(chance.randrange(_log(files).stat().st_size))


def delete_log(files: OutboxFiles, chance: random.Random) -> None:
    _log(files).unlink()
    if chance.random() < 0.5:
        (files.folder / "ledger.db-shm").unlink()


def flip_in_log(files: OutboxFiles, chance: random.Random) -> None:
    flip(_log(files), chance)


def noise_in_shared_memory(files: OutboxFiles, chance: random.Random) -> None:
    (files.folder / "ledger.db-shm").write_bytes(chance.randbytes(32768))


def delete_ledger(files: OutboxFiles, chance: random.Random) -> None:
    for path in files.folder.glob("ledger.db*"):
        path.unlink()


def everything(files: OutboxFiles, chance: random.Random) -> None:
    flip_in_log(files, chance)
    truncate_log(files, chance)
    zero_pages(files, chance)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "damage",
    [
        flip_in_ledger,
        flip_in_first_page,
        zero_pages,
        fill_pages_with_noise,
        truncate_ledger,
        truncate_log,
        delete_log,
        flip_in_log,
        noise_in_shared_memory,
        delete_ledger,
        everything,
    ],
)
def test_whatever_happens_to_the_ledger_every_accepted_event_is_there(
    broken: OutboxFiles, damage: Damaging, seed: int
) -> None:
    damage(broken, random.Random(seed))
    more = producer(broken, segment_bytes=SEGMENT)
    more.append(event("new", size=300))

    received = deliver_all(broken)

    assert received == {"trove": {*NAMES, "new"}, "datadog": {*NAMES, "new"}}
    ledger = open_repaired(broken)
    assert damage_in(broken, ledger.db) is None
    assert not broken.suspect.exists()
    ledger.close()
    dead = "SELECT count(*) FROM delivery WHERE state = 2 AND destination = destination.id"
    assert query(broken, f"SELECT sum(dead) = sum(({dead})) FROM destination") == 1
