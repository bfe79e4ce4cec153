"""Damage that a relay meets while it starts and while it works, and the space that it gives back."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from tests.support_relay import (
    ThreadedRelay,
    account,
    all_there,
    append,
    client,
    end_relays,
    leg,
    names_in,
    run_event,
    settled,
    status_of,
    until,
)

from keepline.demo.behaviour import Answer, Received
from keepline.demo.destination import RecordingDestination
from keepline.errors import RelayError
from keepline.event import Event
from keepline.outbox.archive import archived_numbers
from keepline.outbox.files import OutboxFiles
from keepline.outbox.journal import Producer
from keepline.outbox.room import bytes_used
from keepline.outbox.segments import segment_numbers, segment_path
from keepline.outbox.sqlite import reading
from keepline.relay import pruner

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

Deliver = Callable[..., ThreadedRelay]


def _event(name: str) -> Event:
    body = json.dumps({"job": {"name": name}, "run": {"runId": name}, "x": "x" * 20_000})
    return Event(body.encode(), name, "START", "tests", name)


def refusing(*refused: str) -> Callable[[Received], Answer]:
    """Answers 400 to the events of these jobs."""
    return lambda request: Answer(400 if json.loads(request.body)["job"]["name"] in refused else 201)


@pytest.mark.parametrize("seed", range(4))
def test_a_ledger_damaged_while_no_relay_ran_is_repaired_and_all_that_waits_arrives(
    outbox: Path, deliver: Deliver, destination: RecordingDestination, seed: int
) -> None:
    files = OutboxFiles(outbox)
    chance = random.Random(seed)
    names = append(outbox, [f"early {number}" for number in range(200)], size=500)
    destination.answer_with(refusing("early 7"))
    relay = deliver({"a": leg(destination)})
    assert relay.idle()
    relay.stop()
    destination.down()
    names += append(outbox, [f"late {number}" for number in range(200)], size=500)
    relay = deliver({"a": leg(destination)})
    until(lambda: status_of(outbox, "a").pending == 200)
    relay.stop()
    pages = files.ledger.stat().st_size // 4096
    with files.ledger.open("r+b") as file:
        for _ in range(6):
            file.seek(4096 * chance.randrange(1, pages))
            file.write(chance.randbytes(4096))
    (files.folder / "ledger.db-shm").touch()

    destination.up()
    names += append(outbox, ["new"])
    relay = deliver({"a": leg(destination)})
    until(lambda: settled(outbox))

    assert all_there(destination, [name for name in names if name != "early 7"])
    assert account(outbox)["dead"] == 1
    assert len(list(files.damaged.glob("*-ledger"))) == 1


def test_a_relay_that_meets_damage_ends_and_the_next_one_repairs_while_appends_go_on(
    outbox: Path, deliver: Deliver, destination: RecordingDestination
) -> None:
    files = OutboxFiles(outbox)
    destination.down()
    names = append(outbox, [str(number) for number in range(2000)])
    relay = deliver({"a": leg(destination)})
    until(lambda: status_of(outbox, "a").pending == 2000)
    relay.stop()
    size = files.ledger.stat().st_size
    with files.ledger.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xa5" * (size // 2))
    destination.up()

    # Nothing that it looks at when it starts.
    relay = deliver({"a": leg(destination)})
    names += append(outbox, ["during"])
    relay.join()
    with pytest.raises(RelayError, match="ends: can't"):
        relay.stop()
    relay.forgive()
    assert files.suspect.exists()
    names += append(outbox, ["between"])
    deliver({"a": leg(destination)})
    until(lambda: settled(outbox))

    assert all_there(destination, names)
    assert not files.suspect.exists()


def test_one_damaged_row_ends_one_relay_and_the_next_one_delivers_all(
    outbox: Path, deliver: Deliver, destination: RecordingDestination
) -> None:
    files = OutboxFiles(outbox)
    destination.down()
    names = append(outbox, [str(number) for number in range(2000)])
    relay = deliver({"a": leg(destination)})
    until(lambda: status_of(outbox, "a").pending == 2000)
    relay.stop()
    ledger = apsw.Connection(str(files.ledger))
    ledger.execute("UPDATE event SET length = 1 << 60 WHERE id = 1500")
    ledger.close()
    destination.up()

    # The row is sound to SQLite, and far behind what is read first.
    relay = deliver({"a": leg(destination)})
    relay.join()
    with pytest.raises(RelayError, match="the row of event 1500 in the ledger isn't one"):
        relay.stop()
    relay.forgive()
    deliver({"a": leg(destination)})
    until(lambda: settled(outbox))

    assert all_there(destination, names)


def test_an_auto_relay_that_meets_damage_is_replaced_by_one_that_repairs(
    outbox: Path, destination: RecordingDestination
) -> None:
    files = OutboxFiles(outbox)
    emitting = client(outbox, {"a": leg(destination)})
    emitting.emit(run_event("0"))
    until(lambda: names_in(destination) == ["0"])
    end_relays(outbox)
    files.ledger.write_bytes(random.Random(1).randbytes(20_000))
    emitting.emit(run_event("1", run=1))

    until(lambda: "1" in names_in(destination))
    until(lambda: settled(outbox))
    assert set(names_in(destination)) == {"0", "1"}
    assert "the damaged ledger is set aside in" in files.relay_log.read_text()
    emitting.close()


def test_a_record_that_is_damaged_after_it_was_taken_in_is_buried_and_the_rest_goes_on(
    outbox: Path, deliver: Deliver, destination: RecordingDestination
) -> None:
    files = OutboxFiles(outbox)
    destination.down()
    append(outbox, [str(number) for number in range(100)], size=300)
    relay = deliver({"a": leg(destination)})
    until(lambda: status_of(outbox, "a").pending == 100)
    relay.stop()
    (number,) = segment_numbers(files)
    data = bytearray(segment_path(files, number).read_bytes())
    data[len(data) // 2] ^= 1
    segment_path(files, number).write_bytes(data)
    destination.up()

    deliver({"a": leg(destination)})
    until(lambda: settled(outbox))

    assert account(outbox) == {"delivered": 99, "dead": 1, "pending": 0}


@pytest.mark.parametrize(
    "bounds", [{"retention": 0.05}, {"max_bytes": 30_000_000}], ids=lambda one: next(iter(one))
)
def test_space_is_given_back_without_an_append_waiting_for_it(
    outbox: Path,
    deliver: Deliver,
    destination: RecordingDestination,
    monkeypatch: pytest.MonkeyPatch,
    bounds: dict[str, float],
) -> None:
    monkeypatch.setattr(pruner, "_ROUND_EVERY", 0.02)
    monkeypatch.setattr(pruner, "_LOOK_EVERY", 0.02)
    files = OutboxFiles(outbox)
    destination.answer_with(refusing("13"))
    relay = deliver({"a": leg(destination)}, segment_bytes=500_000, **bounds)
    producer = Producer(files, segment_bytes=500_000, lock_timeout=5.0)
    longest = 0.0
    for number in range(2000):
        began = time.perf_counter()
        producer.append(_event(str(number)))
        longest = max(longest, time.perf_counter() - began)
    assert relay.idle()
    until(lambda: append(outbox, ["more"]) and relay.idle() and bytes_used(files) < 28_000_000)
    producer.close()

    assert len(archived_numbers(files)) < 60
    # Six times what the relay's own work costs beside it; to wait for a round would take far longer.
    assert longest < 0.5
    with reading(files) as ledger:
        assert ledger is not None
        rows = "SELECT count(*) FROM event WHERE segment NOT IN (SELECT segment FROM mark)"
        assert ledger.execute(rows).get == 0
        letter = "SELECT body FROM delivery JOIN body ON body.event = delivery.event WHERE state = 2"
        assert ledger.execute(letter).get == _event("13").body
    assert account(outbox)["dead"] == 1
    assert account(outbox)["delivered"] >= 1999
