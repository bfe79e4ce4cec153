"""A long outage with thousands of events: nothing expires, one probe at a time, and full speed soon after."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support_relay import ThreadedRelay, account, append, status_of, transport, until

from keepline.config import Settings
from keepline.demo.behaviour import Received
from keepline.demo.destination import Answer, RecordingDestination

EVENTS = 10_000
RUNS = 2_000
PROBES_OF_TEN_MINUTES = 20
"""With the default cap of 30 s between two probes; here the cap is shorter, and their number the same."""
FULL_SPEED = 32
"""Requests at once."""
PATIENCE = 120.0


class Outage:
    """A destination's part in it: takes events, fails for as long as it is told, takes them again."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self.out = False
        self.failed = 0
        self.delay = 0.0
        self.taken: list[tuple[int, int]] = []
        """Number and run of each event that was taken, in the order of the answers."""

    def answer(self, received: Received) -> Answer:
        event = json.loads(received.body)
        with self._mutex:
            if self.out:
                self.failed += 1
                return Answer(503)
            self.taken.append((int(event["job"]["name"]), int(event["run"]["runId"])))
            return Answer(201, self.delay)


@pytest.fixture
def destination() -> Iterator[RecordingDestination]:
    with RecordingDestination() as one:
        yield one


def test_ten_thousand_events_outlive_an_outage_of_ten_minutes_in_order_one_probe_at_a_time(
    tmp_path: Path, destination: RecordingDestination
) -> None:
    outbox = tmp_path / "outbox"
    settings = transport(
        outbox, {"a": {"type": "http", "url": destination.url}}, backoff_first=0.01, backoff_max=0.1
    )
    outage = Outage()
    destination.answer_with(outage.answer)
    relay = ThreadedRelay(Settings.from_dict(settings))
    try:
        names = [str(number) for number in range(EVENTS)]
        append(outbox, names[:3000], run=run_of)
        until(lambda: len(outage.taken) > 1000)
        outage.out = True
        until(lambda: status_of(outbox, "a").state == "out")
        # Those that were sent before the first of them failed come to their end.
        destination.wait_for(lambda one: one.in_flight <= 1, PATIENCE)
        destination.clear()
        before = outage.failed
        append(outbox, names[3000:], run=lambda number: run_of(number + 3000))
        until(lambda: outage.failed >= before + PROBES_OF_TEN_MINUTES, PATIENCE)
        assert destination.in_flight_peak == 1
        assert destination.connections_peak <= 1 + destination.connections_open
        assert account(outbox)["dead"] == 0
        # So that as many are in flight as are sent at once.
        outage.delay = 0.02
        outage.out = False
        # Opens by and by: one, then two, then four.
        taken = len(outage.taken)
        until(lambda: destination.in_flight_peak >= FULL_SPEED, PATIENCE)
        at_full_speed_after = len(outage.taken) - taken
        assert relay.idle(PATIENCE)
    finally:
        relay.stop()
    assert Counter(number for number, _ in outage.taken) == Counter(range(EVENTS))
    per_run: dict[int, list[int]] = {}
    for number, run in outage.taken:
        per_run.setdefault(run, []).append(number)
    assert len(per_run) == RUNS
    assert all(numbers == sorted(numbers) for numbers in per_run.values())
    assert account(outbox) == {"delivered": EVENTS, "dead": 0, "pending": 0}
    # It doubles with every round of answers, so this is the work of a moment.
    assert FULL_SPEED <= at_full_speed_after < 500


def run_of(number: int) -> str:
    return str(number % RUNS)
