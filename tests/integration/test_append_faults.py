"""Appends on disks that are full or read-only, without rights, and behind locks that others keep."""

from __future__ import annotations

import fcntl
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support_outbox import (
    Reports,
    child,
    close_producers,
    damages,
    end_of,
    event,
    fill,
    names,
    producer,
    remount,
    small_disk,
    until,
    wait_for_the_kill,
)

from keepline.errors import OutboxError, OutboxLocked, OutboxUnavailable
from keepline.outbox import refusals
from keepline.outbox.archive import delete
from keepline.outbox.files import OutboxFiles
from keepline.outbox.ledger import Ledger
from keepline.outbox.reader import retire, retire_all
from keepline.outbox.segments import segment_numbers, segment_path
from keepline.outbox.status import read_status

BOUND = 2.0
"""Seconds within which a refused append says so, with the default settings."""
MARGIN = 1.0
"""Seconds more, for a busy machine."""

as_root = pytest.mark.skipif(os.getuid() != 0, reason="mounting a disk takes root's rights")


@pytest.fixture
def files(tmp_path: Path) -> OutboxFiles:
    return OutboxFiles(tmp_path / "outbox")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_producers()


def error_of(append: Callable[[], object]) -> str:
    """The message with which an append is refused, in time."""
    began = time.monotonic()
    with pytest.raises(OutboxError) as caught:
        append()
    assert time.monotonic() - began < BOUND + MARGIN
    return f"{type(caught.value).__name__}: {caught.value}"


@as_root
def test_a_full_disk_refuses_an_event_whole_says_so_counts_it_and_takes_events_again_later(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", kilobytes=1024) as disk:
        files = OutboxFiles(disk / "outbox")
        appender = producer(files)
        appender.append(event("before"))
        filler = fill(disk)
        refused = 0
        while not refused:
            # What is left of the last block may hold one more.
            with suppress(OutboxUnavailable):
                appender.append(event("filling", size=3000))
                continue
            refused += 1

        for _ in range(3):
            assert "free some space on that disk" in error_of(lambda: appender.append(event("lost")))
            refused += 1
        assert "free some space" in error_of(lambda: producer(files).append(event("lost")))
        refused += 1
        assert names(files)[0] == "before"
        assert "lost" not in names(files)
        assert read_status(files).refused == refused

        filler.unlink()
        appender.append(event("after"))
        producer(files).append(event("last"))
        assert names(files)[-2:] == ["after", "last"]
        assert refusals.total(files) == refused
        appender.close()


@as_root
def test_a_large_event_that_fills_the_disk_leaves_nothing_that_a_reader_takes_for_whole(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", kilobytes=1024) as disk:
        files = OutboxFiles(disk / "outbox")
        appender = producer(files)
        appender.append(event("before"))

        message = error_of(lambda: appender.append(event("lost", size=5_000_000)))
        assert "the disk took" in message
        assert "free some space" in message
        assert names(files) == ["before"]
        (torn,) = segment_numbers(files)
        assert segment_path(files, torn).stat().st_size > 500_000

        remount(disk, "size=4m")
        appender.append(event("after"))
        assert names(files) == ["before", "after"]
        assert [one.end - one.position > 500_000 for one in damages(files)] == [True]
        assert retire(files, torn, end_of(files, torn))
        appender.close()


@as_root
def test_a_disk_without_room_for_a_new_segment_refuses_until_there_is_some(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=1024) as disk:
        files = OutboxFiles(disk / "outbox")
        remount(disk, "nr_inodes=8")  # The root, three folders, the lock, the count and two segments.
        for name in "ab":
            producer(files, segment_bytes=1).append(event(name))

        assert "free some space" in error_of(lambda: producer(files, segment_bytes=1).append(event("lost")))
        close_producers()
        first = segment_numbers(files)[0]
        assert retire(files, first, end_of(files, first))
        delete(files, first)
        producer(files, segment_bytes=1).append(event("c"))

        assert names(files) == ["b", "c"]
        assert refusals.total(files) == 1


@as_root
def test_the_space_of_a_deleted_segment_is_free_while_idle_processes_have_it_open(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=1024) as disk:
        files = OutboxFiles(disk / "outbox")
        idle = producer(files)
        idle.append(event("a", size=900_000))
        (number,) = segment_numbers(files)
        assert retire(files, number, end_of(files, number))
        delete(files, number)

        producer(files).append(event("b", size=900_000))
        idle.append(event("c"))

        assert names(files) == ["b", "c"]


@as_root
def test_what_a_full_disk_keeps_from_the_ledger_stays_in_the_journal(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=1024) as disk:
        files = OutboxFiles(disk / "outbox")
        producer(files).append(event("a"))
        fill(disk)

        with pytest.raises(OutboxUnavailable, match="free some space on that disk"):
            Ledger(files)
        assert names(files) == ["a"]


def test_a_process_that_may_write_no_larger_files_is_refused_with_the_remedy(
    files: OutboxFiles, tmp_path: Path
) -> None:
    reports = Reports(tmp_path / "reports")

    def append_to_the_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        appender = producer(files)
        messages = []
        for number in range(20):
            try:
                appender.append(event(str(number), size=1000))
                reports.accepted(str(number))
            except OutboxUnavailable as error:
                messages.append(str(error))
        assert "the disk took" in messages[0]
        assert all("raise this process's limit of file sizes" in message for message in messages[1:])

    with child(append_to_the_limit) as process:
        assert process.end() == 0

    assert names(files) == reports.read()
    assert len(reports.read()) == 9
    producer(files).append(event("after"))
    assert names(files) == [*reports.read(), "after"]
    assert refusals.total(files) == 11


@as_root
def test_a_disk_that_becomes_read_only_refuses_events_and_the_relays_work_with_the_remedy(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", kilobytes=1024) as disk:
        files = OutboxFiles(disk / "outbox")
        producer(files).append(event("before"))
        (number,) = segment_numbers(files)
        fresh = OutboxFiles(disk / "another")
        close_producers()  # A disk with a file open for writing can't become read-only.
        remount(disk, "ro")

        writable = "name a folder on a writable disk in `outbox`"
        assert writable in error_of(lambda: producer(files).append(event("lost")))
        assert writable in error_of(lambda: producer(fresh).append(event("lost")))
        end = end_of(files, number)
        assert writable in error_of(lambda: retire(files, number, end))
        assert writable in error_of(lambda: retire_all(files, lambda _: end, timeout=1, then=pytest.fail))
        assert names(files) == ["before"]

        remount(disk, "rw")
        producer(files).append(event("after"))
        assert names(files) == ["before", "after"]


@as_root
def test_a_user_without_rights_is_refused_with_the_remedy(files: OutboxFiles, tmp_path: Path) -> None:
    producer(files).append(event("roots"))
    for path in (tmp_path, *list(tmp_path.parents)[:2]):
        path.chmod(0o755)

    def append_as_nobody() -> None:
        os.setgid(65534)
        os.setuid(65534)
        for path in (files.folder, tmp_path / "new"):
            appender = producer(OutboxFiles(path))
            message = error_of(lambda appender=appender: appender.append(event("lost")))  # type: ignore[misc]
            assert "let this user write there, or name another folder in `outbox`" in message
        with pytest.raises(OutboxUnavailable, match="let this user"):
            read_status(files)
        with pytest.raises(OutboxUnavailable, match="let this user"):
            Ledger(files)

    with child(append_as_nobody) as process:
        assert process.end() == 0
    assert names(files) == ["roots"]


@as_root
def test_a_user_who_isnt_root_can_seal_and_delete_what_that_user_made(tmp_path: Path) -> None:
    for path in (tmp_path, *list(tmp_path.parents)[:2]):
        path.chmod(0o755)
    tmp_path.chmod(0o777)
    files = OutboxFiles(tmp_path / "outbox")

    def live_as_nobody() -> None:
        os.setgid(65534)
        os.setuid(65534)
        appender = producer(files, segment_bytes=300)
        for number in range(20):
            appender.append(event(str(number)))
        sealed = segment_numbers(files)[:-1]
        assert names(files) == [str(number) for number in range(20)]
        assert all(retire(files, number, end_of(files, number)) for number in sealed)
        segment_path(files, segment_numbers(files)[0]).chmod(0o400)
        producer(files).append(event("20"))
        assert names(files)[-1] == "20"
        assert retire_all(files, lambda number: end_of(files, number), timeout=1, then=lambda: None)
        appender.append(event("21"))
        assert names(files) == ["21"]

    with child(live_as_nobody) as process:
        assert process.end() == 0


def keep_locked(path: Path, reports: Reports) -> Callable[[], None]:
    def run() -> None:
        fd = os.open(path, os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX)
        reports.accepted("locked")
        wait_for_the_kill()

    return run


def test_a_segment_locked_too_long_refuses_the_event_in_time_and_counts_it(
    files: OutboxFiles, tmp_path: Path
) -> None:
    appender = producer(files)
    appender.append(event("before"))
    path = segment_path(files, segment_numbers(files)[0])
    reports = Reports(tmp_path / "reports")

    with child(keep_locked(path, reports)) as other:
        until(reports.read)
        message = error_of(lambda: appender.append(event("lost")))
        assert message.startswith("OutboxLocked: can't lock")
        assert "see with `fuser` or `lslocks` which one, and end it" in message
        other.kill()
    appender.append(event("after"))

    assert names(files) == ["before", "after"]
    assert refusals.total(files) == 1


def test_the_journals_lock_kept_too_long_refuses_in_time_what_would_begin_a_segment(
    files: OutboxFiles, tmp_path: Path
) -> None:
    producer(files).append(event("before"))
    reports = Reports(tmp_path / "reports")

    with child(keep_locked(files.journal_lock, reports)) as other:
        until(reports.read)
        with pytest.raises(OutboxLocked):
            retire_all(files, lambda _: 0, timeout=0.1, then=pytest.fail)
        producer(files).append(event("beside"))
        message = error_of(lambda: producer(files, segment_bytes=1).append(event("lost")))
        assert message.startswith("OutboxLocked: can't lock")
        other.kill()
    producer(files, segment_bytes=1).append(event("after"))

    assert names(files) == ["before", "beside", "after"]
    assert refusals.total(files) == 1


def test_refusals_are_counted_however_many_processes_are_refused_at_once(
    files: OutboxFiles, tmp_path: Path
) -> None:
    producer(files).append(event("before"))
    segment = segment_path(files, segment_numbers(files)[0])
    segment.unlink()
    segment.mkdir()

    def be_refused() -> None:
        appender = producer(files)
        for _ in range(300):
            with pytest.raises(OutboxUnavailable):
                appender.append(event("lost"))

    with child(be_refused) as one, child(be_refused) as two, child(be_refused) as three:
        assert [process.end() for process in (one, two, three)] == [0, 0, 0]

    assert refusals.total(files) == 900
