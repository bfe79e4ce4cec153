"""Odd events from emit to the destinations: each is accepted or refused, and none is in another's way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.support_relay import (
    OpenLineageClient,
    ThreadedRelay,
    account,
    client,
    leg,
    relay_of,
    run_event,
    until,
)

from keepline.demo.behaviour import Answer
from keepline.demo.destination import Received, RecordingDestination
from keepline.errors import EventError, OutboxUnavailable
from keepline.outbox import refusals
from keepline.outbox.files import OutboxFiles
from keepline.outbox.room import bytes_used
from keepline.transport import Transport

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(120)]

Deliver = Callable[..., ThreadedRelay]

RUN_ID = "00000000-0000-4000-8000-000000000001"
NUL, SURROGATE = "n\0ul", "lone \ud800"
LARGEST = 2_000_000


class Raising:
    """An event that can't be looked at."""

    @property
    def run(self) -> object:
        raise RuntimeError("not now")


def document(**parts: Any) -> dict[str, Any]:
    """An event with some of its parts replaced, or taken away by ``...``."""
    whole = {
        "eventType": "START",
        "eventTime": "2026-01-01T00:00:00Z",
        "run": {"runId": RUN_ID},
        "job": {"namespace": "tests", "name": "odd"},
        "producer": "https://example.com/keepline-tests",
        **parts,
    }
    return {name: part for name, part in whole.items() if part is not ...}


def facet(value: Any) -> dict[str, Any]:
    return document(run={"runId": RUN_ID, "facets": {"odd": {"value": value}}})


def nested(depth: int) -> Any:
    value: Any = "innermost"
    for level in range(depth):
        value = {"in": value} if level % 2 else [value]
    return value


def ring() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["again"] = value
    return value


ACCEPTED: dict[str, Any] = {
    "not a number": facet(math.nan),
    "infinity": facet([math.inf, -math.inf]),
    "a lone surrogate": facet({SURROGATE: SURROGATE}),
    "a lone surrogate in a run id": document(run={"runId": SURROGATE}),
    "a lone surrogate in a job": document(job={"namespace": SURROGATE, "name": SURROGATE}),
    "NUL": facet({NUL: NUL}),
    "NUL in a run id": document(run={"runId": NUL}),
    "NUL in a job": document(job={"namespace": NUL, "name": NUL}),
    "NUL in an event type": document(eventType=NUL),
    "line ends in a run id": document(run={"runId": "a\r\nX-Evil: 1\r\n\r\n"}),
    "line ends in a job": document(job={"namespace": "a\nb", "name": "\x1b[31m\r\n"}),
    "a run without an id": document(run={}),
    "a run that is null": document(run=None),
    "a run that is a list": document(run=[1]),
    "a run id that is a number": document(run={"runId": 7}),
    "a run id that is a list": document(run={"runId": [7]}),
    "an empty run id": document(run={"runId": ""}),
    "no run": document(run=...),
    "no job": document(job=...),
    "neither run nor job": document(run=..., job=...),
    "a dataset of no name": document(run=..., job=..., dataset={}),
    "no type": document(eventType=...),
    "a type that is none": document(eventType={"a": 1}),
    "nothing": {},
    "a run id too long for a header": document(run={"runId": "€" * 70_000}),
    "a job too long for a header": document(job={"namespace": "€" * 70_000, "name": "😀" * 70_000}),
    "a type too long for a header": document(eventType="T" * 1000),
    "a large event": facet("x" * (LARGEST - 1000)),
    "what is 200 levels deep": facet(nested(200)),
    "an integer of 4000 digits": facet(10**3999),
    "keys that are no texts": facet({1: "a", 2.5: "b"}),
    "what only repr can write": facet([object(), {1, 2}, b"bytes", 1j]),
    "the mark of a record": facet("\xff\xfeK\x01"),
}

REFUSED: dict[str, Any] = {
    "too large": facet("x" * LARGEST),
    "too deep": facet(nested(100_000)),
    "what holds itself": facet(ring()),
    "an integer too long to write": facet(10**5000),
    "keys of mixed types": facet({1: "a", "b": 2}),
    "a key that is a tuple": facet({(1, 2): "a"}),
    "what can't be looked at": Raising(),
    "no event": object(),
    "null": None,
    "a number": 7,
    "a text": "event",
    "a list": [document()],
}

ODD = {**ACCEPTED, **REFUSED}


def emitter(outbox: Path, legs: Any, **keys: Any) -> tuple[OpenLineageClient, Transport]:
    emitting = client(outbox, legs, relay="external", max_event_bytes=LARGEST, **keys)
    assert isinstance(emitting.transport, Transport)
    return emitting, emitting.transport


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_event_is_accepted_or_refused_in_words_and_nothing_else_happens(
    kind: str, outbox: Path
) -> None:
    _, emitting = emitter(outbox, {"a": leg("http://127.0.0.1:1")})
    if kind in ACCEPTED:
        emitting.emit(ACCEPTED[kind])
        return
    with pytest.raises(EventError) as caught:
        emitting.emit(REFUSED[kind])
    assert len(str(caught.value)) < 400


def emit_all(outbox: Path, legs: Any) -> list[str]:
    """Emit each odd event, and after each a normal one; the names of these."""
    emitting, raw = emitter(outbox, legs)
    normal = []
    for number, (kind, odd) in enumerate(ODD.items(), 1):
        if kind in ACCEPTED:
            raw.emit(odd)
        else:
            with pytest.raises(EventError):
                raw.emit(odd)
        # Every other one of the run that most of the odd ones are of.
        emitting.emit(run_event(f"normal {number}", run=number if number % 2 else 1))
        normal.append(f"normal {number}")
    return normal


def normal_ones(documents: list[Any]) -> list[str]:
    names = [(one.get("job") or {}).get("name") for one in documents]
    return [name for name in names if isinstance(name, str) and name.startswith("normal")]


def test_odd_events_arrive_and_so_do_those_after_them(
    outbox: Path, destination: RecordingDestination, tmp_path: Path, deliver: Deliver
) -> None:
    written = tmp_path / "written"
    legs = {
        "native": leg(destination),
        "driven": {"type": "file", "log_file_path": str(written), "append": True},
    }
    normal = emit_all(outbox, legs)

    assert deliver(legs, max_event_bytes=LARGEST).idle()

    count = len(ACCEPTED) + len(normal)
    assert account(outbox, "native") == {"delivered": count, "dead": 0, "pending": 0}
    assert sorted(normal_ones(destination.events)) == sorted(normal)
    driven = account(outbox, "driven")
    assert (driven["delivered"] + driven["dead"], driven["pending"]) == (count, 0)
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert sorted(normal_ones(lines)) == sorted(normal)


def test_odd_events_that_a_destination_refuses_are_dead_letters_and_those_after_them_arrive(
    outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    def judge(request: Received) -> Answer:
        return Answer(201 if b'"normal ' in request.body else 422, 0.0, (), b"odd\0 \xff\xfe")

    destination.answer_with(judge)
    legs = {"native": leg(destination)}
    normal = emit_all(outbox, legs)

    assert deliver(legs).idle()

    assert account(outbox, "native") == {"delivered": len(normal), "dead": len(ACCEPTED), "pending": 0}
    assert sorted(normal_ones(destination.events)) == sorted(normal)


def test_odd_events_are_delivered_by_the_relay_that_comes_after_one_that_stopped(
    outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    # What a relay takes back out of the outbox is what it took in.
    legs = {"native": leg(destination)}
    destination.answer(503)
    normal = emit_all(outbox, legs)
    relay = deliver(legs)
    assert not relay.idle(0.5)
    relay.stop()

    destination.answer(201)
    assert deliver(legs).idle()

    count = len(ACCEPTED) + len(normal)
    assert account(outbox, "native") == {"delivered": count, "dead": 0, "pending": 0}
    assert sorted(normal_ones(destination.events)) == sorted(normal)


def test_an_event_over_the_limit_is_counted_though_it_is_the_first(outbox: Path) -> None:
    _, emitting = emitter(outbox, {"a": leg("http://127.0.0.1:1")})
    with pytest.raises(EventError, match="`max_event_bytes`, which is 2000000"):
        emitting.emit(REFUSED["too large"])
    assert refusals.total(OutboxFiles(outbox)) == 1


def test_a_transport_takes_the_bounds_and_the_durability_of_its_settings(
    outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    legs = {"a": leg("http://127.0.0.1:1")}
    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", synced.append)
        _, emitting = emitter(outbox, legs, durability="power", max_bytes="1MiB")
        for number in range(10):
            emitting.emit(run_event(str(number)))
        assert len(synced) == 10
    files = OutboxFiles(outbox)
    while not refusals.total(files):
        with suppress(OutboxUnavailable):
            emitting.emit(facet("x" * 100_000))
    assert bytes_used(files) < (1 << 20) + 300_000


@pytest.mark.parametrize("relay", ["auto", "inline"])
def test_an_emit_that_finds_no_room_sees_to_it_that_a_relay_lives(
    relay: str, outbox: Path, destination: RecordingDestination
) -> None:
    # One that has delivered everything ends, and leaves what retention keeps.
    files = OutboxFiles(outbox)
    files.create()
    files.archive.mkdir(exist_ok=True)
    kept = files.archive / "kept"
    kept.write_bytes(b"x" * (1 << 20))
    emitting = client(outbox, {"a": leg(destination)}, relay=relay, max_bytes="1MiB", look_every=0.05)
    with pytest.raises(OutboxUnavailable, match="is full"):
        emitting.emit(run_event("lost"))

    until(lambda: relay_of(outbox))

    kept.unlink()
    emitting.emit(run_event("after"))
    until(lambda: [one["job"]["name"] for one in destination.events] == ["after"])
    emitting.close(10)
