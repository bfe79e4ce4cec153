"""An outbox at its bound, from emit to the destination: what it refuses, delivers and lets go of."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support_relay import (
    OpenLineageClient,
    ThreadedRelay,
    account,
    client,
    leg,
    names_in,
    run_event,
    status,
    until,
)

from keepline.demo.destination import RecordingDestination
from keepline.errors import OutboxUnavailable
from keepline.outbox.files import OutboxFiles
from keepline.outbox.room import bytes_used

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(120)]

BOUND = 4 << 20
SIZE = 20_000


def emitter(outbox: Path, legs: Any) -> OpenLineageClient:
    return client(outbox, legs, relay="external", max_bytes=BOUND)


def emit(emitting: OpenLineageClient, number: int) -> str:
    name = f"{number}-" + "x" * SIZE
    emitting.emit(run_event(name, run=number))
    return name


def fill(emitting: OpenLineageClient) -> list[str]:
    """Emit until there is no room; what was accepted."""
    accepted: list[str] = []
    while True:
        try:
            accepted.append(emit(emitting, len(accepted)))
        except OutboxUnavailable:
            return accepted


def emit_when_there_is_room(emitting: OpenLineageClient, number: int) -> str:
    deadline = time.monotonic() + 20
    while True:
        try:
            return emit(emitting, number)
        except OutboxUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_what_was_delivered_makes_room_long_before_retention_ends(
    outbox: Path, destination: RecordingDestination, deliver: Callable[..., ThreadedRelay]
) -> None:
    legs = {"a": leg(destination)}
    emitting = emitter(outbox, legs)
    deliver(legs, max_bytes=BOUND)

    accepted = [emit_when_there_is_room(emitting, number) for number in range(2 * BOUND // SIZE)]

    until(lambda: len(names_in(destination)) >= len(accepted))
    assert sorted(names_in(destination)) == sorted(accepted)


def test_a_full_outbox_goes_on_delivering_and_takes_events_again_when_its_destination_does(
    outbox: Path, destination: RecordingDestination, deliver: Callable[..., ThreadedRelay]
) -> None:
    legs = {"a": leg(destination)}
    emitting = emitter(outbox, legs)
    destination.answer(503)
    relay = deliver(legs, max_bytes=BOUND)
    accepted = fill(emitting)
    assert status(outbox).refused >= 1
    assert bytes_used(OutboxFiles(outbox)) < 2 * BOUND

    destination.answer(201)
    accepted.append(emit_when_there_is_room(emitting, len(accepted)))

    assert relay.idle()
    assert sorted(names_in(destination)) == sorted(accepted)
    assert account(outbox)["dead"] == 0


def test_an_outbox_full_of_what_waits_loses_none_of_it_to_a_new_relay(
    outbox: Path, destination: RecordingDestination, deliver: Callable[..., ThreadedRelay]
) -> None:
    legs = {"a": leg(destination)}
    emitting = emitter(outbox, legs)
    accepted = fill(emitting)
    destination.answer(503)
    relay = deliver(legs, max_bytes=BOUND)
    until(lambda: destination.received)
    relay.stop()
    with pytest.raises(OutboxUnavailable, match="is full"):
        emit(emitting, 1_000_000)

    destination.answer(201)
    assert deliver(legs, max_bytes=BOUND).idle()

    assert sorted(names_in(destination)) == sorted(accepted)


def test_the_smallest_bound_is_kept_with_small_events_and_there_is_room_again(
    outbox: Path, destination: RecordingDestination, deliver: Callable[..., ThreadedRelay]
) -> None:
    bound = 1 << 20
    legs = {"a": leg(destination)}
    emitting = client(outbox, legs, relay="external", max_bytes=bound)
    destination.answer(503)
    relay = deliver(legs, max_bytes=bound)
    accepted = 0
    with contextlib.suppress(OutboxUnavailable):
        while True:
            emitting.emit(run_event(str(accepted), run=accepted))
            accepted += 1
    # Most of it is used by what waits, and little by the ledger's log.
    assert accepted * 400 > bound / 4
    until(lambda: status(outbox).waiting == 0)
    assert bytes_used(OutboxFiles(outbox)) < 1.5 * bound

    destination.answer(201)
    emit_when_there_is_room(emitting, accepted)

    assert relay.idle()
    assert len(names_in(destination)) == accepted + 1
    assert account(outbox) == {"delivered": accepted + 1, "dead": 0, "pending": 0}
