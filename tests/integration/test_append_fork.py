"""Forks of processes that have appended, at the worst of moments."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
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
    wait_for_the_kill,
)

from keepline.outbox import journal, segments
from keepline.outbox.files import OutboxFiles
from keepline.outbox.reader import retire
from keepline.outbox.segments import segment_numbers, segment_path

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_producers()


@pytest.fixture
def files(tmp_path: Path) -> OutboxFiles:
    return OutboxFiles(tmp_path / "outbox")


@pytest.fixture
def reports(tmp_path: Path) -> Reports:
    return Reports(tmp_path / "reports")


def test_a_child_and_its_parent_append_at_once_and_no_record_is_damaged_or_lost(files: OutboxFiles) -> None:
    appender = producer(files, segment_bytes=100_000)
    appender.append(event("before"))

    def append(who: str) -> None:
        for number in range(1000):
            appender.append(event(f"{who}-{number}", size=500))

    with child(lambda: append("child")) as forked:
        append("parent")
        assert forked.end() == 0
    append("parent again")

    found = names(files)
    assert len(found) == len(set(found)) == 3001
    for who in ("child", "parent", "parent again"):
        assert [name for name in found if name.startswith(f"{who}-")] == [f"{who}-{n}" for n in range(1000)]
    assert damages(files) == []


def test_children_forked_while_threads_of_the_parent_append_find_everything_usable(
    files: OutboxFiles,
) -> None:
    appender = producer(files, segment_bytes=20_000)
    stop = threading.Event()
    counts = [0] * 4

    def append_on(thread: int) -> None:
        while not stop.is_set():
            appender.append(event(f"thread{thread}-{counts[thread]}"))
            counts[thread] += 1

    def append_in_child(number: int) -> None:
        def append(thread: int) -> None:
            for step in range(10):
                appender.append(event(f"child{number}.{thread}-{step}"))

        inner = [threading.Thread(target=append, args=(thread,)) for thread in range(3)]
        for one in inner:
            one.start()
        for one in inner:
            one.join()

    threads = [threading.Thread(target=append_on, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    try:
        children = [Child(lambda number=number: append_in_child(number)) for number in range(40)]  # type: ignore[misc]
        assert [one.end() for one in children] == [0] * 40
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    found = names(files)
    expected = [f"thread{thread}-{step}" for thread in range(4) for step in range(counts[thread])]
    expected += [f"child{n}.{thread}-{step}" for n in range(40) for thread in range(3) for step in range(10)]
    assert sorted(found) == sorted(expected)
    assert damages(files) == []


def stall(monkeypatch: pytest.MonkeyPatch, module: object, name: str, stalled: threading.Event) -> None:
    """Let the first thread that comes to a function stay in it."""
    function: Callable[..., object] = getattr(module, name)

    def staying(*args: object) -> object:
        if threading.current_thread() is not threading.main_thread():
            stalled.set()
            os.read(os.pipe()[0], 1)
        return function(*args)

    monkeypatch.setattr(module, name, staying)


def fork_beside_a_stalled_append(
    files: OutboxFiles, reports: Reports, in_child: Callable[[], None], stalled: threading.Event
) -> Callable[[], None]:
    """A process whose thread stays in the middle of an append while its main thread forks."""

    def run() -> None:
        appender = producer(files, segment_bytes=1000)
        thread = threading.Thread(target=lambda: appender.append(event("never")), daemon=True)
        thread.start()
        assert stalled.wait(20)
        reports.accepted(str(Child(in_child).pid))
        wait_for_the_kill()

    return run


def grandchild_that_said(word: str, reports: Reports) -> int:
    until(lambda: word in reports.read() and any(line.isdecimal() for line in reports.read()))
    return next(int(line) for line in reports.read() if line.isdecimal())


def is_locked(path: Path, how: int = fcntl.LOCK_EX) -> bool:
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def test_a_fork_in_the_middle_of_an_append_leaves_its_lock_with_the_parent_alone(
    files: OutboxFiles, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer(files).append(event("before"))
    (number,) = segment_numbers(files)
    path = segment_path(files, number)
    stalled = threading.Event()
    stall(monkeypatch, journal, "takes_appends", stalled)

    def in_child() -> None:
        producer(files).append(event("child"))
        reports.accepted("appended")
        wait_for_the_kill()

    with child(fork_beside_a_stalled_append(files, reports, in_child, stalled)) as parent:
        grandchild = grandchild_that_said("appended", reports)
        try:
            # The child has opened, locked, unlocked and closed; the parent's append still has its lock.
            assert is_locked(path)
            assert not retire(files, number, end_of(files, number))
            parent.kill()
            # The child lives on, and has kept nothing of it.
            assert retire(files, number, end_of(files, number))
        finally:
            os.kill(grandchild, signal.SIGKILL)


def test_a_fork_while_a_segment_is_being_made_doesnt_keep_others_from_making_one(
    files: OutboxFiles, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer(files).append(event("before", size=1000))
    stalled = threading.Event()
    stall(monkeypatch, segments, "_create", stalled)

    def in_child() -> None:
        reports.accepted("lives")
        wait_for_the_kill()

    with child(fork_beside_a_stalled_append(files, reports, in_child, stalled)) as parent:
        grandchild = grandchild_that_said("lives", reports)
        try:
            assert is_locked(files.journal_lock)
            parent.kill()
            producer(files, segment_bytes=1000).append(event("after"))
        finally:
            os.kill(grandchild, signal.SIGKILL)

    assert names(files) == ["before", "after"]
