from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support_outbox import close_producers, event, producer, query, take_all_in

from keepline.errors import OutboxDamaged
from keepline.outbox.commands import Command, Discard, Forget, Replay, Resume, from_json, to_json
from keepline.outbox.delivery import DeliveryState, Ended
from keepline.outbox.files import OutboxFiles
from keepline.outbox.ledger import Ledger
from keepline.outbox.record import encode_command
from keepline.outbox.segments import segment_numbers, segment_path
from keepline.relay.inbound import Inbound
from keepline.tuning import Tuning

COMMANDS: list[Command] = [
    Replay("0a", "trove", (1, 2)),
    Discard("0a", "trove", ()),
    Resume(None),
    Resume("trove"),
    Forget("0123456789abcdef", "tröve"),
]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[OutboxFiles]:
    yield OutboxFiles(tmp_path / "outbox")
    close_producers()


@pytest.fixture
def ledger(files: OutboxFiles) -> Iterator[Ledger]:
    opened = Ledger(files)
    yield opened
    opened.close()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_stands_in_the_journal_as_it_was_given(command: Command) -> None:
    assert from_json(to_json(command)) == command


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"do": "fly"},
        {"do": ["replay"]},
        {"do": "resume"},
        {"do": "resume", "destination": 5},
        {"do": "resume", "destination": "a", "later": "x"},
        {"do": "forget", "destination": None, "x": 1},
        {"do": "forget", "destination": "\ud800"},
        {"do": "replay", "ledger": "0a", "destination": "a", "events": 7},
        {"do": "replay", "ledger": "0a", "destination": "a", "events": "7"},
        {"do": "replay", "ledger": "0a", "destination": "a", "events": [2**63]},
        {"do": "replay", "ledger": "0a", "destination": "a", "events": [True]},
        {"do": "discard", "ledger": 1, "destination": "a", "events": [1]},
    ],
)
def test_what_is_no_command_is_refused_whatever_it_is(document: object) -> None:
    with pytest.raises(OutboxDamaged, match="give it again with this version"):
        from_json(json.dumps(document).encode())


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 100_000, b"nonsense"])
def test_what_is_no_json_is_refused_too(body: bytes) -> None:
    with pytest.raises(OutboxDamaged):
        from_json(body)


def test_an_unknown_command_is_logged_and_passed_over_and_the_others_are_done_in_their_order(
    files: OutboxFiles, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    one = ledger.register(["trove"], "open")["trove"]
    appender = producer(files)
    for name in "abc":
        appender.append(event(name))
    take_all_in(files, ledger, [one])
    states = (DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.DEAD)
    ledger.end([Ended(one, number, state, 1) for number, state in enumerate(states, 1)], 1.0)
    given = [
        to_json(Discard(ledger.identity, "trove", (1, 2))),
        b'{"do": "something of tomorrow"}',
        to_json(Replay(ledger.identity, "trove", (1, 2, 99))),
        to_json(Resume(None)),
    ]
    with segment_path(files, segment_numbers(files)[0]).open("ab", buffering=0) as journal:
        for body in given:
            journal.write(encode_command(body, time.time_ns()))

    taken = Inbound(files, ledger, Tuning(), [one]).take_in()

    assert taken is not None
    assert taken.commands == [from_json(given[0]), from_json(given[2]), Resume(None)]
    assert "isn't known here" in caplog.text
    assert query(files, "SELECT group_concat(state) FROM delivery") == "0,0,2"
    assert query(files, "SELECT delivered, dead, discarded FROM destination") == (0, 1, 0)
    assert query(files, "SELECT attempts, ended_at FROM delivery WHERE event = 1") == (0, None)


def test_a_destination_in_the_configuration_isnt_forgotten_and_another_goes_with_all_it_has(
    files: OutboxFiles, ledger: Ledger
) -> None:
    ids = ledger.register(["trove", "datadog"], "open")
    producer(files).append(event("a"))
    take_all_in(files, ledger, list(ids.values()))
    ledger.register(["trove"], "open")

    for name in ("trove", "datadog", "nobody"):
        Forget(ledger.identity, name).apply(ledger)

    assert query(files, "SELECT group_concat(name) FROM destination") == "trove"
    assert query(files, "SELECT group_concat(destination) FROM delivery") == str(ids["trove"])
