"""A ledger that is younger than the archive beside it: all there is is taken in before any of it goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support_relay import ThreadedRelay, account, all_there, append, leg, status, until

from keepline.demo.destination import RecordingDestination
from keepline.outbox.archive import archived_numbers
from keepline.outbox.files import OutboxFiles

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

Deliver = Callable[..., ThreadedRelay]
EVENTS = 4000
SEGMENT = 1024 * 1024


@pytest.mark.parametrize("bounds", [{"retention": 0.001}, {"max_bytes": SEGMENT}], ids=["long ago", "full"])
def test_a_ledger_that_is_gone_costs_nothing_though_what_is_archived_would_be_pruned(
    outbox: Path, deliver: Deliver, destination: RecordingDestination, bounds: dict[str, float]
) -> None:
    files = OutboxFiles(outbox)
    destination.answer(503)
    # Several times what is taken in at once, and in one segment.
    names = append(outbox, map(str, range(EVENTS)), size=150, segment_bytes=SEGMENT)
    names += append(outbox, ["one more"], segment_bytes=1)
    relay = deliver({"a": leg(destination)}, segment_bytes=SEGMENT)
    until(lambda: not status(outbox).waiting)
    until(lambda: len(archived_numbers(files)) >= 1)
    relay.stop()
    files.ledger.write_bytes(b"")

    relay = deliver({"a": leg(destination)}, segment_bytes=SEGMENT, **bounds)
    until(lambda: account(outbox)["pending"] == len(names))
    destination.answer(201)
    assert relay.idle()

    assert all_there(destination, names)
    assert account(outbox) == {"delivered": len(names), "dead": 0, "pending": 0}
