"""Damage that is done to an outbox's files, and what is left of it when the relay has opened the ledger."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from tests.support_outbox import (
    child,
    close_producers,
    event,
    fill,
    pending_at,
    producer,
    query,
    small_disk,
    take_all_in,
)

from keepline.errors import OutboxDamaged, OutboxUnavailable
from keepline.outbox import repair
from keepline.outbox.archive import archived_numbers, archived_path
from keepline.outbox.batch import read
from keepline.outbox.check import damage_in
from keepline.outbox.commands import Discard, Replay
from keepline.outbox.delivery import DeliveryState, Ended
from keepline.outbox.files import OutboxFiles
from keepline.outbox.ledger import Ledger
from keepline.outbox.pruning import Pruning
from keepline.outbox.repair import open_repaired
from keepline.outbox.schema import STEPS
from keepline.outbox.segments import segment_numbers, segment_path
from keepline.outbox.status import read_status
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
        waiting = pending_at(ledger, one, 0, 100)
        ledger.end([Ended(one, each.event, DELIVERED, 1, 1.0, 201) for each in waiting[5:]], 2.0)
        ledger.end([Ended(one, each.event, DEAD, 1, 1.0, 400, "400 bad") for each in waiting[:5]], 2.0)
    ledger.checkpoint()
    # These stand in the log alone.
    for one in ids:
        waiting = pending_at(ledger, one, 0, 50)
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
        inbound.tidy()
    inbound.tidy()
    for ident in ids.values():
        after = 0
        while waiting := pending_at(ledger, ident, after, 64):
            after = waiting[-1].event
            ended = [
                Ended(ident, one.event, DEAD if one.body is None else DELIVERED, one.attempts + 1)
                for one in waiting
            ]
            ledger.end(ended, time.time())
    places = names_by_place(files)
    found: dict[str, set[str]] = {}
    for name, ident in ids.items():
        rows = ledger.db.execute(
            "SELECT segment, position, CAST(job_name AS BLOB) FROM event "
            "JOIN delivery ON event = id AND destination = ?",
            (ident,),
        ).fetchall()
        # A flipped bit may be in either of the two.
        pairs = [
            (bytes(job).decode(errors="replace"), places.get((place[0], place[1]))) for *place, job in rows
        ]
        found[name] = {one for pair in pairs for one in pair if one in NAMES or one == "new"}
    return found


def names_by_place(files: OutboxFiles) -> dict[tuple[int, int], str]:
    """The name of each event, by its segment and position."""
    archived = archived_numbers(files)
    return {
        (number, entry.position): entry.job_name
        for number in [*archived, *segment_numbers(files)]
        for entry in read(files, number, 0, limit=10_000, archived=number in archived).entries
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


@pytest.mark.parametrize("seed", range(10))
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


@pytest.mark.parametrize("seed", range(10))
def test_a_relay_killed_while_it_repairs_leaves_the_damaged_ledger_or_the_new_one(
    broken: OutboxFiles, seed: int
) -> None:
    chance = random.Random(seed)
    zero_pages(broken, chance)

    for _ in range(4):
        with child(lambda: open_repaired(broken).close()) as relay:
            time.sleep(chance.random() * 0.02)
            relay.kill()

    received = deliver_all(broken)
    assert received == {"trove": set(NAMES), "datadog": set(NAMES)}
    assert damage_of(broken) is None
    assert not list(broken.folder.glob("ledger.repair*"))


def damage_of(files: OutboxFiles) -> str | None:
    ledger = Ledger(files)
    try:
        return damage_in(files, ledger.db)
    finally:
        ledger.close()


def test_a_repair_killed_between_its_renames_is_brought_to_its_end(
    broken: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken.suspect.touch()
    rename = Path.rename
    renamed: list[str] = []

    def rename_one(path: Path, target: Path) -> Path:
        if renamed:
            renamed.clear()
            raise KeyboardInterrupt
        renamed.append(path.name)
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename_one)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                open_repaired(broken)
            assert (broken.folder / "ledger.repaired").exists()

    received = deliver_all(broken)
    assert received == {"trove": set(NAMES), "datadog": set(NAMES)}
    aside = {path.name for folder in ledgers(broken) for path in folder.iterdir()}
    assert {"ledger.db", "ledger.db-wal"} <= aside <= {"ledger.db", "ledger.db-wal", "ledger.db-shm"}


def test_what_is_known_of_deliveries_and_their_counts_outlives_a_repair(
    made: OutboxFiles, broken: OutboxFiles
) -> None:
    before = read_status(broken)
    broken.suspect.write_text("somebody says so\n")

    ledger = open_repaired(broken)

    assert query(broken, "SELECT count(*) FROM unplaced") == 0
    assert damage_in(broken, ledger.db) is None
    ledger.close()
    after = read_status(broken)
    assert after.waiting == before.waiting == 10
    for old, new in zip(before.destinations, after.destinations, strict=True):
        assert (old.name, old.pending, old.delivered, old.dead) == (
            new.name,
            new.pending,
            new.delivered,
            new.dead,
        )
    letters = "SELECT group_concat(job_name || answer) FROM delivery JOIN event ON id = event WHERE state = 2"
    assert query(broken, letters) == query(made, letters)


def test_a_damaged_ledger_is_set_aside_as_it_was_and_the_log_says_where_and_what_was_saved(
    broken: OutboxFiles, caplog: pytest.LogCaptureFixture
) -> None:
    broken.ledger.write_bytes(b"no database at all" * 1000)
    (broken.folder / "ledger.db-wal").unlink()

    open_repaired(broken).close()

    (folder,) = ledgers(broken)
    assert (folder / "ledger.db").read_bytes() == b"no database at all" * 1000
    assert folder.stat().st_mode & 0o777 == 0o700
    assert f"set aside in {folder}. Saved: 0 events and 0 deliveries; 3" in caplog.text
    assert "is damaged, and is being repaired" in caplog.text

    broken.ledger.write_bytes(b"again")
    open_repaired(broken).close()
    assert len(ledgers(broken)) == 2


def test_only_the_last_few_damaged_ledgers_are_kept(
    broken: OutboxFiles, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5):
        broken.ledger.write_bytes(b"no database: %d" % number)
        open_repaired(broken).close()

    kept = {(folder / "ledger.db").read_bytes() for folder in ledgers(broken)}
    assert kept == {b"no database: %d" % number for number in (2, 3, 4)}
    assert caplog.text.count("deleted the damaged ledger in ") == 2


def test_events_found_again_stand_where_they_were_appended(broken: OutboxFiles) -> None:
    zero_pages(broken, random.Random(3))
    ledger = open_repaired(broken)
    ids = ledger.register(["trove"], "open")
    inbound = Inbound(broken, ledger, Tuning(segment_bytes=SEGMENT), list(ids.values()))
    while inbound.take_in() is not None:
        inbound.tidy()
    inbound.tidy()
    rows = ledger.db.execute("SELECT job_name FROM event ORDER BY id").fetchall()
    ledger.close()

    assert [name for (name,) in rows] == NAMES


def test_bodies_whose_segments_are_gone_outlive_a_repair(files: OutboxFiles) -> None:
    ledger = Ledger(files)
    one = ledger.register(["trove"], "open")["trove"]
    appender = producer(files, segment_bytes=1000)
    for name in "abcdef":
        appender.append(event(name, size=300))
    take_all_in(files, ledger, [one], segment_bytes=1000)
    ledger.end([Ended(one, 1, DELIVERED, 1), Ended(one, 2, DEAD, 1, answer="400")], 1.0)
    pruning = Pruning(files, ledger)
    pruning.begin()
    while pruning.step(time.time() + 100, pressed=True):
        pass
    assert len(archived_numbers(files)) < 2
    expected = [one.body for one in pending_at(ledger, one, 0, 10)]
    ledger.close()
    files.suspect.touch()

    ledger = open_repaired(files)

    assert [one.body for one in pending_at(ledger, one, 0, 10)] == expected
    body = "SELECT body FROM body JOIN delivery ON delivery.event = body.event WHERE state = 2"
    assert query(files, body) == event("b", size=300).body
    ledger.close()


def test_a_ledger_of_a_newer_keepline_is_no_damage(broken: OutboxFiles) -> None:
    ledger = Ledger(broken)
    ledger.db.execute("CREATE TABLE invented_later (id)")
    ledger.db.pragma("user_version", len(STEPS) + 1)
    ledger.close()

    with pytest.raises(OutboxDamaged, match="newer Keepline"):
        open_repaired(broken)

    assert ledgers(broken) == []
    assert query(broken, "PRAGMA user_version") == len(STEPS) + 1


@pytest.mark.parametrize("version", [0, 1, len(STEPS) + 1, 2**30, -5])
def test_a_damaged_number_of_the_version_is_damage(broken: OutboxFiles, version: int) -> None:
    ledger = Ledger(broken)
    ledger.db.pragma("user_version", version)
    ledger.close()

    assert deliver_all(broken) == {"trove": set(NAMES), "datadog": set(NAMES)}
    assert len(ledgers(broken)) == 1


def test_another_programs_database_is_set_aside_and_what_it_holds_is_left_to_it(broken: OutboxFiles) -> None:
    for path in broken.folder.glob("ledger.db*"):
        path.unlink()
    connection = apsw.Connection(str(broken.ledger))
    connection.execute("CREATE TABLE event (name); INSERT INTO event VALUES ('theirs')")
    connection.close()

    assert deliver_all(broken) == {"trove": set(NAMES), "datadog": set(NAMES)}

    (folder,) = ledgers(broken)
    connection = apsw.Connection(str(folder / "ledger.db"), flags=apsw.SQLITE_OPEN_READONLY)
    assert connection.execute("SELECT name FROM event").get == "theirs"
    connection.close()


def test_a_full_disk_is_no_damage(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=2000) as disk:
        files = OutboxFiles(disk / "outbox")
        ledger = open_repaired(files)
        one = ledger.register(["trove"], "open")["trove"]
        appender = producer(files)
        for number in range(40):
            appender.append(event(str(number), size=20_000))
        filler = fill(disk)
        with pytest.raises(OutboxUnavailable, match="free some space"):
            take_all_in(files, ledger, [one])
        for path in (files.ledger, files.folder / "ledger.db-wal"):
            assert path.exists()
        assert not files.suspect.exists()
        with pytest.raises(OutboxUnavailable), ledger.transaction():
            ledger.db.execute("CREATE TABLE large AS SELECT randomblob(5000000)")
        assert not files.suspect.exists()
        filler.unlink()
        assert take_all_in(files, ledger, [one]) == 40
        ledger.close()


def test_a_ledger_older_than_the_archive_takes_the_rest_of_it_in_and_becomes_another(
    made: OutboxFiles, broken: OutboxFiles, caplog: pytest.LogCaptureFixture
) -> None:
    # As a power cut leaves it that takes the last writes to the ledger and not the rename.
    identity = query(broken, "SELECT identity FROM ledger")
    newest = archived_numbers(broken)[-1]
    ledger = Ledger(broken)
    with ledger.transaction():
        first = int(ledger.db.execute("SELECT first_event FROM mark WHERE segment = ?", (newest,)).get) + 5
        end = ledger.db.execute("SELECT position FROM event WHERE id = ?", (first,)).get
        ledger.db.execute("DELETE FROM delivery WHERE event >= ?", (first,))
        ledger.db.execute("DELETE FROM event WHERE id >= ?", (first,))
        ledger.db.execute("DELETE FROM mark WHERE segment > ?", (newest,))
        ledger.db.execute(
            "UPDATE mark SET position = ?, last_event = ? WHERE segment = ?", (end, first - 1, newest)
        )
    ledger.close()

    assert deliver_all(broken) == {"trove": set(NAMES), "datadog": set(NAMES)}

    assert ledgers(broken) == []
    assert query(broken, "SELECT identity FROM ledger") != identity
    assert "is younger than the archive beside it, or has lost its last words: takes in 1 seg" in caplog.text
    assert query(made, "SELECT identity FROM ledger") == identity


def test_an_archive_that_has_no_more_than_the_ledger_knows_is_no_matter_for_the_log(
    files: OutboxFiles, caplog: pytest.LogCaptureFixture
) -> None:
    appender = producer(files, segment_bytes=1000)
    for name in "abcdef":
        appender.append(event(name, size=300))
    ledger = Ledger(files)
    one = ledger.register(["trove"], "open")["trove"]
    take_all_in(files, ledger, [one], segment_bytes=1000)
    path = archived_path(files, archived_numbers(files)[0])
    path.chmod(0o600)
    with path.open("ab") as file:
        file.write(b"torn by a killed process")

    assert Inbound(files, ledger, Tuning(), [one]).take_in() is None
    assert caplog.text == ""
    ledger.close()


def test_commands_that_mean_the_old_ledgers_events_are_ignored_and_the_log_says_so(
    broken: OutboxFiles, caplog: pytest.LogCaptureFixture
) -> None:
    identity = str(query(broken, "SELECT identity FROM ledger"))
    broken.suspect.touch()
    ledger = open_repaired(broken)
    before = query(broken, "SELECT count(*) FROM delivery WHERE state = 0")

    Replay(identity, "trove", (1, 2, 3)).apply(ledger)
    Discard(identity, "trove", (1, 2, 3)).apply(ledger)

    assert query(broken, "SELECT count(*) FROM delivery WHERE state = 0") == before
    assert "ignored a command (replay) about `trove`" in caplog.text
    assert "ignored a command (discard) about `trove`" in caplog.text
    Replay(ledger.identity, "trove", (1, 2, 3)).apply(ledger)
    assert query(broken, "SELECT count(*) FROM delivery WHERE state = 0") == int(str(before)) + 3
    ledger.close()


def test_readers_of_a_damaged_ledger_are_told_who_repairs_it(broken: OutboxFiles) -> None:
    with broken.ledger.open("r+b") as file:
        file.truncate(5000)
    _log(broken).unlink()

    with pytest.raises(OutboxDamaged, match="run `keepline flush` or `keepline relay`"):
        read_status(broken)
    assert not broken.suspect.exists()


def test_a_stretch_of_a_segment_that_holds_no_record_is_kept_once(
    files: OutboxFiles, caplog: pytest.LogCaptureFixture
) -> None:
    appender = producer(files)
    for name in "abc":
        appender.append(event(name, size=100))
    (number,) = segment_numbers(files)
    path = segment_path(files, number)
    data = path.read_bytes()
    begin = end = len(data) // 3
    path.write_bytes(data[: begin + 50] + b"?" + data[begin + 51 :])
    end += len(data) // 3
    ledger = Ledger(files)
    one = ledger.register(["trove"], "open")["trove"]

    for _ in range(2):
        inbound = Inbound(files, ledger, Tuning(), [one])
        inbound.take_in()
        inbound.tidy()
        ledger.db.execute("DELETE FROM mark")

    kept = files.damaged / f"{number}-{begin}.bin"
    assert [path.name for path in files.damaged.iterdir()] == [kept.name]
    assert kept.read_bytes() == data[begin : begin + 50] + b"?" + data[begin + 51 : end]
    assert f"skipped {end - begin} bytes of segment {number} at {begin}" in caplog.text
    assert f"they are kept in {kept}" in caplog.text
    ledger.close()
