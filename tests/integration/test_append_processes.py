"""Many processes append at once, and some of them are killed."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support_outbox import (
    Child,
    Reports,
    child,
    close_producers,
    damages,
    end_of,
    event,
    names,
    producer,
    until,
)

from keepline.errors import OutboxUnavailable
from keepline.outbox import refusals
from keepline.outbox.files import OutboxFiles
from keepline.outbox.journal import Producer
from keepline.outbox.reader import is_full, read_next, retire
from keepline.outbox.room import bytes_used
from keepline.outbox.segments import segment_numbers, segment_path

PROCESSES = 16
EVENTS = 2000

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_producers()


@pytest.fixture
def files(tmp_path: Path) -> OutboxFiles:
    return OutboxFiles(tmp_path / "outbox")


class Taker:
    """Takes events out of the journal as a relay does, deleting segments, for as long as it runs."""

    def __init__(self, files: OutboxFiles, segment_bytes: int) -> None:
        self.taken: list[str] = []
        self.deleted = 0
        self._files = files
        self._segment_bytes = segment_bytes
        self._marks: dict[int, int] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            last = self._ending.is_set()
            while batch := read_next(self._files, lambda number: self._marks.get(number, 0), limit=100):
                assert batch.start == self._marks.get(batch.segment, 0)
                self.taken += [entry.event.job_name for entry in batch.entries]
                self._marks[batch.segment] = batch.position
            for number in segment_numbers(self._files):
                if is_full(self._files, number, self._segment_bytes):
                    self.deleted += retire(self._files, number, self._marks.get(number, 0))
            if last:
                return

    def end(self) -> list[str]:
        self._ending.set()
        self._thread.join()
        return self.taken


@pytest.mark.parametrize("segment_bytes", [1 << 24, 200_000], ids=["16 MB segments", "200 kB segments"])
def test_of_sixteen_processes_that_append_at_once_no_accepted_event_is_lost_or_doubled_though_one_is_killed(
    files: OutboxFiles, tmp_path: Path, segment_bytes: int
) -> None:
    reports = [Reports(tmp_path / f"accepted-{process}") for process in range(PROCESSES)]
    waiting, starting = os.pipe()

    def append(process: int) -> None:
        os.close(starting)
        os.read(waiting, 1)  # Until all have been started.
        appender = producer(files, segment_bytes=segment_bytes)
        for number in range(EVENTS):
            name = f"{process}-{number}"
            appender.append(event(name, size=random.randrange(1000)))
            reports[process].accepted(name)

    processes = [Child(lambda process=process: append(process)) for process in range(PROCESSES)]  # type: ignore[misc]
    taker = Taker(files, segment_bytes)
    os.close(starting)
    until(lambda: len(reports[0].read()) > EVENTS / 3)
    assert processes[0].kill() == -signal.SIGKILL
    assert [process.end() for process in processes[1:]] == [0] * (PROCESSES - 1)
    found = taker.end()
    os.close(waiting)

    assert len(found) == len(set(found))
    accepted = [report.read() for report in reports]
    assert [len(names) for names in accepted[1:]] == [EVENTS] * (PROCESSES - 1)
    for process in range(PROCESSES):
        own = [name for name in found if name.startswith(f"{process}-")]
        # The one that was killed may have had one more in the journal than it could tell of.
        assert own in (accepted[process], [*accepted[process], f"0-{len(accepted[0])}"])
    assert len(accepted[0]) < EVENTS
    assert taker.deleted > 0 or segment_bytes == 1 << 24


def test_what_one_process_appends_after_it_heard_of_anothers_event_is_read_after_it(
    files: OutboxFiles,
) -> None:
    # Runs that wander from process to process, through segments of a few events each.
    processes, rounds, segment_bytes = 4, 400, 500
    links = [os.pipe() for _ in range(processes)]

    def append(process: int) -> None:
        appender = producer(files, segment_bytes=segment_bytes)
        for step in range(process, rounds, processes):
            os.read(links[process][0], 1)
            appender.append(event(f"chain-{step}"))
            os.write(links[(process + 1) % processes][1], b"x")

    def make_noise(process: int) -> None:
        appender = producer(files, segment_bytes=segment_bytes)
        for number in range(rounds * 2):
            appender.append(event(f"noise-{process}-{number}"))

    taker = Taker(files, segment_bytes)
    running = [Child(lambda process=process: append(process)) for process in range(processes)]  # type: ignore[misc]
    running += [Child(lambda process=process: make_noise(process)) for process in range(3)]  # type: ignore[misc]
    os.write(links[0][1], b"x")
    assert [process.end() for process in running] == [0] * len(running)
    found = taker.end()
    for link in links:
        os.close(link[0])
        os.close(link[1])

    assert [name for name in found if name.startswith("chain")] == [f"chain-{step}" for step in range(rounds)]
    for process in range(3):
        noise = [name for name in found if name.startswith(f"noise-{process}-")]
        assert noise == [f"noise-{process}-{number}" for number in range(rounds * 2)]
    assert taker.deleted > 50


def test_processes_that_fill_an_outbox_at_once_stop_at_its_bound_and_lose_nothing_they_accepted(
    files: OutboxFiles, tmp_path: Path
) -> None:
    bound, largest = 4 << 20, 20_000
    reports = [Reports(tmp_path / f"accepted-{process}") for process in range(6)]

    def append(process: int) -> None:
        appender = Producer(files, segment_bytes=1 << 24, lock_timeout=10.0, max_bytes=bound)
        refused = number = 0
        while refused < 20:
            name = f"{process}-{number}"
            try:
                appender.append(event(name, size=random.randrange(largest)))
            except OutboxUnavailable as error:
                refused += "is full" in str(error)
            else:
                reports[process].accepted(name)
            number += 1

    processes = [Child(lambda process=process: append(process)) for process in range(6)]  # type: ignore[misc]
    assert [process.end() for process in processes] == [0] * 6

    found = names(files)
    assert sorted(found) == sorted(name for report in reports for name in report.read())
    # What each had under way when the last segment was full comes on top of it.
    assert bound * 3 / 4 < bytes_used(files) < bound + 6 * (largest + 200)
    assert refusals.total(files) == 6 * 20


def test_of_processes_that_sync_each_event_and_are_killed_no_accepted_event_is_lost(
    files: OutboxFiles, tmp_path: Path
) -> None:
    reports = [Reports(tmp_path / f"accepted-{process}") for process in range(4)]

    def append(process: int) -> None:
        appender = Producer(files, segment_bytes=20_000, lock_timeout=10.0, synced=True)
        for number in range(100_000):
            appender.append(event(f"{process}-{number}"))
            reports[process].accepted(f"{process}-{number}")

    processes = [Child(lambda process=process: append(process)) for process in range(4)]  # type: ignore[misc]
    until(lambda: all(len(report.read()) > 100 for report in reports))
    assert [process.kill() for process in processes] == [-signal.SIGKILL] * 4

    found = names(files)
    assert len(found) == len(set(found))
    for process, report in enumerate(reports):
        accepted = report.read()
        own = [name for name in found if name.startswith(f"{process}-")]
        assert own in (accepted, [*accepted, f"{process}-{len(accepted)}"])


def test_records_torn_by_kill_9_are_skipped_and_every_accepted_event_around_them_is_found(
    files: OutboxFiles, tmp_path: Path
) -> None:
    whole = producer(files, segment_bytes=1 << 40)
    whole.append(event("0"))
    path = segment_path(files, segment_numbers(files)[0])
    reports = Reports(tmp_path / "reports")
    large = 50_000_000

    def append_large_ones(attempt: int) -> None:
        appender = producer(files, segment_bytes=1 << 40)
        for number in range(100):
            name = f"large-{attempt}-{number}"
            appender.append(event(name, size=large))
            reports.accepted(name)

    def kill_in_the_middle(attempt: int) -> None:
        size = path.stat().st_size
        with child(lambda: append_large_ones(attempt)) as process:
            until(lambda: path.stat().st_size > size + 1_000_000)
            assert process.kill() == -signal.SIGKILL
        whole.append(event(f"small-{attempt}"))
        reports.accepted(f"small-{attempt}")

    rounds = 0
    while not (rounds >= 3 and damages(files)) and rounds < 30:
        rounds += 1
        kill_in_the_middle(rounds)

    found = names(files)
    assert [one.end - one.position < large for one in damages(files)].count(True) >= 1
    assert set(reports.read()) <= set(found)
    assert len(found) == len(set(found))
    assert [name for name in found if name.startswith("small")] == [
        f"small-{n}" for n in range(1, rounds + 1)
    ]
    assert retire(files, segment_numbers(files)[0], end_of(files, segment_numbers(files)[0]))
