"""What an outbox knows of runs, and how far back: journal, ledger and archive together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support_cli import emit, run
from tests.support_outbox import close_producers, event, pending_at, producer, query, take_all_in

from keepline.errors import OutboxLocked
from keepline.outbox.delivery import DeliveryState, Ended
from keepline.outbox.files import OutboxFiles
from keepline.outbox.known import Known, KnownRuns, Reach, reach
from keepline.outbox.ledger import Ledger
from keepline.outbox.pruning import Pruning
from keepline.outbox.reconciling import reconciling

SEGMENT = 4000


@pytest.fixture
def files(tmp_path: Path) -> Iterator[OutboxFiles]:
    yield OutboxFiles(tmp_path / "outbox")
    close_producers()


def known(files: OutboxFiles, *numbers: int, since: float = 0.0) -> list[Known | None]:
    with KnownRuns(files, since) as runs:
        found = runs.of(run(number) for number in numbers)
    return [found.get(run(number)) for number in numbers]


def test_it_knows_which_came_last_the_start_or_the_end(files: OutboxFiles) -> None:
    emit(files.folder, "1:START", "2:COMPLETE", "1:RUNNING", "1:FAIL", "2:START", "3:START", "4:OTHER")
    assert known(files, 1, 2, 3, 4, 5) == [Known(1, 4), Known(5, 2), Known(6, 0), None, None]


def test_it_knows_what_was_taken_in_and_what_was_appended_since(files: OutboxFiles) -> None:
    emit(files.folder, "1:START")
    ledger = Ledger(files)
    take_all_in(files, ledger, [])
    emit(files.folder, "1:COMPLETE", "2:START")
    assert known(files, 1, 2) == [Known(1, 2), Known(3, 0)]
    ledger.close()


def test_it_keeps_to_the_time_that_it_is_asked_for(files: OutboxFiles) -> None:
    emit(files.folder, "1:START")
    assert known(files, 1, since=time.time() + 60) == [None]


def test_it_is_what_it_was_whatever_comes_later(files: OutboxFiles) -> None:
    emit(files.folder, "1:START")
    with KnownRuns(files, 0.0) as runs:
        emit(files.folder, "1:COMPLETE")
        assert runs.of([run(1)]) == {run(1): Known(1, 0)}


def test_an_outbox_without_events_reaches_nowhere(files: OutboxFiles) -> None:
    assert reach(files) == Reach(None, False)
    Ledger(files).close()
    assert reach(files) == Reach(None, False)


def test_an_outbox_that_has_forgotten_nothing_reaches_back_to_its_first_event(files: OutboxFiles) -> None:
    before = time.time()
    emit(files.folder, "1:START", "2:START")
    first = reach(files)
    assert first.since is not None
    assert before - 1 < first.since < time.time() + 1
    assert not first.forgotten
    ledger = Ledger(files)
    take_all_in(files, ledger, [])
    assert reach(files) == first
    ledger.close()


def forget(files: OutboxFiles, ledger: Ledger, *, but: int | None = None) -> None:
    """Deliver everything but one event, and prune."""
    (destination,) = ledger.register(["trove"], "open").values()
    waiting = pending_at(ledger, destination, 0, 10_000, most_bytes=1 << 30)
    ended = [Ended(destination, one.event, DeliveryState.DELIVERED, 1) for one in waiting if one.event != but]
    ledger.end(ended, 1e9)
    ledger.answered(destination, "201", 1e9)
    pruning = Pruning(files, ledger)
    pruning.begin()
    while pruning.step(time.time() + 1e6, pressed=False):
        pass


def fill(files: OutboxFiles, ledger: Ledger, events: int) -> None:
    destinations = list(ledger.register(["trove"], "open").values())
    appender = producer(files, segment_bytes=SEGMENT)
    for number in range(events):
        appender.append(event(str(number), size=500))
    take_all_in(files, ledger, destinations, segment_bytes=SEGMENT)


def test_it_reaches_back_to_what_came_behind_the_last_event_that_was_forgotten(files: OutboxFiles) -> None:
    ledger = Ledger(files)
    fill(files, ledger, 30)
    # One that waits is kept however old, and what was around it is gone.
    forget(files, ledger, but=3)
    ids = query(files, "SELECT json_group_array(id) FROM (SELECT id FROM event ORDER BY id)")
    assert str(ids).startswith("[3,")
    first = int(str(ids).strip("[]").split(",")[1])
    assert first > 5
    assert reach(files) == Reach(
        int(str(query(files, f"SELECT appended_at FROM event WHERE id = {first}"))) / 1e9, True
    )
    ledger.close()


def test_an_outbox_that_has_forgotten_everything_reaches_back_to_its_last_answer(files: OutboxFiles) -> None:
    ledger = Ledger(files)
    fill(files, ledger, 30)
    forget(files, ledger)
    ledger.db.execute("DELETE FROM delivery")
    ledger.db.execute("DELETE FROM event")
    assert reach(files) == Reach(1e9, True)
    ledger.close()


def test_there_is_one_reconciliation_of_an_outbox_at_a_time(files: OutboxFiles) -> None:
    files.create()
    with reconciling(files), pytest.raises(OutboxLocked, match="under way"), reconciling(files):
        pass
    with reconciling(files):
        pass
