"""The relay under kill -9, at any instant: what was accepted is delivered, pending or dead."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support_relay import SOON, Process, kill, status, status_of, transport, until

from keepline.demo.behaviour import Received
from keepline.demo.destination import Answer, RecordingDestination
from keepline.event import Event
from keepline.outbox.files import OutboxFiles
from keepline.outbox.journal import Producer

KILLS = 200
CONNECTIONS = 8
RUNS = 40
MOST_WAITING = 1500

NURSERY = """
import json, os, signal, sys
from keepline.config import Settings
from keepline.outbox.files import OutboxFiles
from keepline.relay.lock import RelayLock
from keepline.relay.relay import Relay
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
settings = Settings.from_dict(json.loads(sys.argv[1]))
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        lock = RelayLock.take(OutboxFiles(settings.outbox))
        lock.announce(settings)
        Relay(settings, lock, ends_when_idle=False).run()
        os._exit(0)
    print("pid", pid, flush=True)
"""
"""Forks a relay for each line: 200 fresh interpreters would spend most of the time importing."""


class Load:
    """Appends numbered events without a pause, but for as many as may wait."""

    def __init__(self, outbox: Path) -> None:
        self.accepted = 0
        self.answered: Counter[int] = Counter()
        self.refused: set[int] = set()
        self.order: dict[int, list[int]] = {}
        self.paused = threading.Lock()
        self._over = threading.Event()
        self._producer = Producer(OutboxFiles(outbox), segment_bytes=64 * 1024, lock_timeout=5.0)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            if self.accepted - len(self.answered) > MOST_WAITING:
                self._over.wait(0.001)
                continue
            with self.paused:
                number, run = self.accepted, str(self.accepted % RUNS)
                body = json.dumps({"number": number, "run": {"runId": run}, "x": "x" * 200}).encode()
                self._producer.append(Event(body, run, "RUNNING", "tests", "load"))
                self.accepted += 1

    def answer(self, received: Received) -> Answer:
        """Refuse every fiftieth event, take all others, and note which was answered."""
        number = json.loads(received.body)["number"]
        if not self.answered[number]:
            self.order.setdefault(number % RUNS, []).append(number)
        self.answered[number] += 1
        return Answer(400 if number % 50 == 0 else 201)

    def stop(self) -> None:
        self._over.set()
        self._thread.join(SOON)
        self._producer.close()


def begin(nursery: Process, number: int) -> int:
    """Start a relay, the nursery's so manieth, and give its process."""
    nursery.tell("relay")

    def pids() -> list[str]:
        lines = nursery.output.splitlines(keepends=True)
        return [line for line in lines if line.startswith("pid ") and line.endswith("\n")]

    return int(until(lambda: pids()[number - 1 : number])[0].split()[1])


@pytest.fixture
def destination() -> Iterator[RecordingDestination]:
    with RecordingDestination() as one:
        yield one


def test_200_relays_killed_at_random_instants_under_load_lose_nothing_and_double_only_what_was_in_flight(
    tmp_path: Path, destination: RecordingDestination
) -> None:
    outbox = tmp_path / "outbox"
    # Small segments and a short retention, so that kills also meet archiving and pruning.
    settings = transport(
        outbox,
        {"a": {"type": "http", "url": destination.url}},
        max_connections=CONNECTIONS,
        segment_bytes=64 * 1024,
        retention=0.1,
    )
    instants = random.Random(20261122)
    load = Load(outbox)
    destination.answer_with(load.answer)
    nursery = Process(NURSERY, json.dumps(settings), env={}, cwd=tmp_path)
    may_be_doubled = answered_before = ended_before = 0
    try:
        for kills in range(1, KILLS + 1):
            pid = begin(nursery, kills)
            if kills % 2:
                # Every other one in the middle of its work, the rest also while it begins.
                until(lambda before=answered_before: load.answered.total() > before)
            time.sleep(instants.uniform(0.0, 0.1))
            kill(pid)
            destination.wait_for(lambda one: not (one.in_flight or one.connections_open), SOON)
            with load.paused:
                found = status(outbox)
                one = found.destinations[0] if found.destinations else None
                ended = one.delivered + one.dead if one else 0
                waiting = found.waiting + (one.pending if one else 0)
                assert ended + waiting == load.accepted, f"after {kills} kills"
                # Of the requests that this relay has made, those that it has not marked.
                in_flight = (load.answered.total() - answered_before) - (ended - ended_before)
                assert 0 <= in_flight <= CONNECTIONS, f"after {kills} kills"
                may_be_doubled += in_flight
                answered_before, ended_before = load.answered.total(), ended
        load.stop()
        pid = begin(nursery, KILLS + 1)
        until(lambda: status(outbox).settled)
        kill(pid)
    finally:
        load.stop()
        nursery.close()
    assert load.accepted > 20 * KILLS
    assert may_be_doubled
    assert set(load.answered) == set(range(load.accepted))
    assert load.answered.total() - load.accepted <= may_be_doubled
    assert all(numbers == sorted(numbers) for numbers in load.order.values())
    one = status_of(outbox, "a")
    assert one.dead == len(range(0, load.accepted, 50))
    assert one.delivered == load.accepted - one.dead
