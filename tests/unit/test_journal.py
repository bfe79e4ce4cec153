from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.support_outbox import SOON, close_producers, damages, end_of, event, names, producer, until

from keepline.errors import EventError, OutboxLocked, OutboxUnavailable
from keepline.outbox import journal, record, refusals, segments
from keepline.outbox.archive import delete
from keepline.outbox.batch import backlog, read
from keepline.outbox.files import OutboxFiles
from keepline.outbox.owned import held
from keepline.outbox.reader import is_full, read_next, retire, retire_all
from keepline.outbox.record import Entry
from keepline.outbox.segments import segment_numbers, segment_path

SMALL = 300
"""Bytes: a few events fill a segment."""


@pytest.fixture
def files(tmp_path: Path) -> Iterator[OutboxFiles]:
    yield OutboxFiles(tmp_path / "outbox")
    close_producers()


@contextmanager
def locked(path: Path, how: int) -> Iterator[None]:
    """A lock of somebody else's: it belongs to another open file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


def only_segment(files: OutboxFiles) -> int:
    (number,) = segment_numbers(files)
    return number


def modes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): stat.filemode(path.stat().st_mode)
        for path in (folder, *folder.rglob("*"))
    }


# Appending


def test_events_are_read_back_in_the_order_of_appending(files: OutboxFiles) -> None:
    appender = producer(files)
    for number in range(2500):
        appender.append(event(str(number)))

    assert names(files) == [str(number) for number in range(2500)]
    assert damages(files) == []


def test_folder_and_files_are_their_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    files = OutboxFiles(tmp_path / "made" / "too" / "outbox")
    before = os.umask(0)
    try:
        producer(files, segment_bytes=1).append(event("1"))
        producer(files, segment_bytes=1).append(event("2"))
    finally:
        os.umask(before)
    sealed, open_one = (segment_path(files, number).name for number in segment_numbers(files))

    assert modes(tmp_path / "made") == {
        ".": "drwx------",
        "too": "drwx------",
        "too/outbox": "drwx------",
        "too/outbox/archive": "drwx------",
        "too/outbox/journal": "drwx------",
        "too/outbox/journal.lock": "-rw-------",
        "too/outbox/refused": "-rw-------",
        f"too/outbox/journal/{sealed}": "-r--------",
        f"too/outbox/journal/{open_one}": "-rw-------",
    }


def test_a_folder_that_is_there_keeps_its_rights(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    producer(OutboxFiles(tmp_path)).append(event("1"))

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o700


@pytest.mark.parametrize("below", ["", "outbox", "some/outbox"])
def test_a_path_at_or_below_a_file_is_refused_with_the_remedy(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(OutboxUnavailable, match=r"can't .*; name a folder in `outbox`"):
        producer(OutboxFiles(tmp_path / "file" / below)).append(event("1"))


def test_an_event_too_large_for_a_record_is_refused_and_counted(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "MAX_RECORD_BYTES", 10_000)
    appender = producer(files)
    appender.append(event("1"))

    with pytest.raises(EventError, match="too large"):
        appender.append(event("2", size=20_000))
    appender.append(event("3"))

    assert names(files) == ["1", "3"]
    assert refusals.total(files) == 1


def test_sixteen_threads_append_through_a_few_handles_and_nothing_is_lost(files: OutboxFiles) -> None:
    appender = producer(files, segment_bytes=50_000)

    def append(thread: int) -> None:
        for number in range(200):
            appender.append(event(f"{thread}-{number}"))

    threads = [threading.Thread(target=append, args=(thread,)) for thread in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = names(files)
    for thread in range(16):
        own = [name for name in found if name.startswith(f"{thread}-")]
        assert own == [f"{thread}-{number}" for number in range(200)]
    assert len(found) == 16 * 200
    assert damages(files) == []
    assert sum(path.parent == files.journal for path in open_files().values()) <= 4
    appender.close()


def test_a_signal_handler_appends_in_the_middle_of_an_append(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    appender = producer(files)
    looked = journal.takes_appends
    signals = [signal.SIGUSR1]

    def interrupted(state: os.stat_result, segment_bytes: int) -> bool:
        # Here the append holds its lock, and has looked, and not yet written.
        if signals:
            signal.raise_signal(signals.pop())
        return looked(state, segment_bytes)

    monkeypatch.setattr(journal, "takes_appends", interrupted)
    before = signal.signal(signal.SIGUSR1, lambda *_: appender.append(event("handler")))
    try:
        appender.append(event("interrupted"))
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert names(files) == ["handler", "interrupted"]


def test_an_append_that_a_signal_handler_breaks_off_leaves_no_lock_behind(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    appender = producer(files)
    appender.append(event("1"))
    looked = journal.takes_appends

    def interrupted(state: os.stat_result, segment_bytes: int) -> bool:
        signal.raise_signal(signal.SIGUSR1)
        return looked(state, segment_bytes)

    def expire(*_: object) -> None:
        raise TimeoutError("the task's own")

    monkeypatch.setattr(journal, "takes_appends", interrupted)
    before = signal.signal(signal.SIGUSR1, expire)
    try:
        with pytest.raises(TimeoutError, match="the task's own"):
            appender.append(event("2"))
    finally:
        signal.signal(signal.SIGUSR1, before)

    number = only_segment(files)
    assert retire(files, number, end_of(files, number))


def test_files_closed_behind_its_back_dont_matter_to_an_append(files: OutboxFiles) -> None:
    appender = producer(files)
    appender.append(event("1"))
    os.close(descriptor_of(segment_path(files, only_segment(files))))

    assert appender.append(event("2"))
    assert names(files) == ["1", "2"]


def test_an_append_never_writes_to_a_file_that_got_the_number_of_a_closed_one(
    files: OutboxFiles, tmp_path: Path
) -> None:
    appender = producer(files)
    appender.append(event("1"))
    number = descriptor_of(segment_path(files, only_segment(files)))
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    os.dup2(other, number)

    appender.append(event("2"))
    appender.close()

    assert os.fstat(number).st_size == 0
    assert names(files) == ["1", "2"]
    os.close(other)
    os.close(number)


def open_files() -> dict[int, Path]:
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found[int(link.name)] = link.readlink()
    return found


def descriptor_of(path: Path) -> int:
    (number,) = (number for number, found in open_files().items() if found == path)
    return number


# Segments


def test_a_full_segment_is_sealed_and_the_next_one_takes_the_appends(files: OutboxFiles) -> None:
    appender = producer(files, segment_bytes=SMALL)
    for number in range(20):
        appender.append(event(str(number)))

    *sealed, newest = segment_numbers(files)
    assert len(sealed) > 3
    assert all(stat.S_IMODE(segment_path(files, one).stat().st_mode) == 0o400 for one in sealed)
    assert all(is_full(files, one, segment_bytes=1 << 40) for one in sealed)
    assert not is_full(files, newest, segment_bytes=1 << 40)
    assert names(files) == [str(number) for number in range(20)]


def test_processes_with_different_sizes_in_mind_append_to_one_segment_at_a_time(files: OutboxFiles) -> None:
    modest, generous = producer(files, segment_bytes=SMALL), producer(files, segment_bytes=1 << 30)
    for number in range(0, 20, 2):
        generous.append(event(str(number)))
        modest.append(event(str(number + 1)))

    assert len(segment_numbers(files)) > 3
    assert names(files) == [str(number) for number in range(20)]


def test_a_process_killed_between_sealing_and_creating_leaves_a_journal_that_goes_on(
    files: OutboxFiles,
) -> None:
    producer(files).append(event("1"))
    segment_path(files, only_segment(files)).chmod(0o400)

    producer(files).append(event("2"))

    assert len(segment_numbers(files)) == 2
    assert names(files) == ["1", "2"]


def test_segment_numbers_rise_when_the_clock_is_set_back_and_all_segments_are_gone(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    appender = producer(files)
    appender.append(event("1"))
    number = only_segment(files)
    assert retire(files, number, end_of(files, number))

    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: 1_000_000_000)
        appender.append(event("2"))

    assert only_segment(files) > number


def test_a_segment_of_before_a_reboot_takes_no_more_appends(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A power cut can leave a segment shorter than the ledger's mark in it.
    producer(files).append(event("1"))
    monkeypatch.setattr(segments, "_boot_id", lambda: "another")

    producer(files).append(event("2"))
    producer(files).append(event("3"))

    old, _ = segment_numbers(files)
    assert is_full(files, old, segment_bytes=1 << 40)
    assert names(files) == ["1", "2", "3"]


def test_a_damaged_memory_of_the_last_segment_begins_a_new_one(files: OutboxFiles) -> None:
    producer(files).append(event("1"))
    files.journal_lock.write_bytes(b"\xff" * 100)

    producer(files).append(event("2"))

    assert len(segment_numbers(files)) == 2
    assert names(files) == ["1", "2"]


def test_files_that_arent_segments_are_left_alone(files: OutboxFiles) -> None:
    producer(files).append(event("1"))
    strange = ["notes.seg", "1.seg", "9" * 20 + ".seg", "²" * 20 + ".seg", "0" * 20 + ".segment"]
    for name in strange:
        (files.journal / name).touch()

    producer(files).append(event("2"))

    assert names(files) == ["1", "2"]
    assert all((files.journal / name).exists() for name in strange)


def test_an_append_after_the_outbox_was_deleted_makes_it_anew(files: OutboxFiles) -> None:
    appender = producer(files)
    appender.append(event("1"))
    shutil.rmtree(files.folder)

    assert appender.append(event("2"))
    assert names(files) == ["2"]


def test_an_append_after_the_outbox_was_moved_away_goes_where_a_relay_looks(
    files: OutboxFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_LOOK_EVERY", 0.0)
    appender = producer(files)
    appender.append(event("1"))
    files.folder.rename(tmp_path / "away")

    assert appender.append(event("2"))
    assert names(files) == ["2"]
    assert names(OutboxFiles(tmp_path / "away")) == ["1"]


def test_a_segment_that_fills_up_each_time_ends_in_an_error_that_says_so(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "takes_appends", lambda *_: False)

    with pytest.raises(OutboxUnavailable, match="raise `segment_bytes`"):
        producer(files).append(event("1"))


def test_who_waits_for_a_lock_whose_file_is_deleted_gets_the_lock_of_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    taken = threading.Event()
    release = threading.Event()

    def wait() -> None:
        with held(path, timeout=10):
            taken.set()
            release.wait(10)

    with locked(path, fcntl.LOCK_EX):
        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: list(open_files().values()).count(path) == 2)
        path.unlink()
    taken.wait(10)
    with pytest.raises(OutboxLocked), held(path, timeout=0.01):
        pass
    release.set()
    thread.join()


# Reading


def test_records_around_damage_are_found_and_the_damage_is_told(files: OutboxFiles) -> None:
    appender = producer(files)
    for number in range(10):
        appender.append(event(str(number)))
    path = segment_path(files, only_segment(files))
    entries = list(backlog(files, only_segment(files), 0))
    data = bytearray(path.read_bytes())
    data[entries[3].position + 30] ^= 1
    data[entries[6].end : entries[6].end] = b"garbage \xff\xfeK\x01 between"
    path.write_bytes(data + data[: entries[0].end - 1])
    appender.append(event("10"))

    assert names(files) == ["0", "1", "2", "4", "5", "6", "7", "8", "9", "10"]
    assert [one.end - one.position for one in damages(files)] == [
        entries[3].end - entries[3].position,
        len(b"garbage \xff\xfeK\x01 between"),
        entries[0].end - 1,
    ]


def test_a_reader_gets_past_records_and_damage_larger_than_what_it_reads_at_once(files: OutboxFiles) -> None:
    appender = producer(files)
    appender.append(event("1"))
    appender.append(event("2", size=9_000_000))
    with segment_path(files, only_segment(files)).open("ab") as file:
        file.write(b"\0" * 5_000_000)
    appender.append(event("3"))

    assert names(files) == ["1", "2", "3"]
    assert [one.end - one.position for one in damages(files)] == [5_000_000]


def test_a_segment_is_read_in_parts_that_fit_together(files: OutboxFiles) -> None:
    appender = producer(files)
    for number in range(5):
        appender.append(event(str(number)))
    number = only_segment(files)

    first = read(files, number, 0, limit=2)
    second = read(files, number, first.position, limit=2)
    third = read(files, number, second.position, limit=2)

    assert [len(one.entries) for one in (first, second, third)] == [2, 2, 1]
    assert [one.more for one in (first, second, third)] == [True, True, False]
    assert (second.start, second.position) == (first.position, second.entries[-1].end)
    assert read(files, number, third.position, limit=2).entries == ()
    assert read(files, number + 1, 0, limit=2).entries == ()


def test_a_segment_cut_off_before_the_mark_is_read_from_its_beginning(files: OutboxFiles) -> None:
    appender = producer(files)
    for number in range(5):
        appender.append(event(str(number)))
    number = only_segment(files)
    mark = end_of(files, number)
    cut = read(files, number, 0, limit=2).position + 10
    os.truncate(segment_path(files, number), cut)
    appender.append(event("after"))
    size = segment_path(files, number).stat().st_size

    batch = read(files, number, mark, limit=100)

    assert [entry.event.job_name for entry in batch.entries] == ["0", "1", "after"]
    assert (batch.start, batch.position, batch.more) == (mark, size, False)
    assert (batch.damages[0].position, batch.damages[0].end) == (size, mark)


def test_a_segment_cut_off_by_a_power_cut_is_done_with(files: OutboxFiles) -> None:
    appender = producer(files)
    appender.append(event("1"))
    appender.append(event("2"))
    number = only_segment(files)
    mark = end_of(files, number)
    path = segment_path(files, number)
    os.truncate(path, mark - 10)
    os.utime(path, (1e9, 1e9))  # Before this boot of the machine.

    batch = read(files, number, mark, limit=10)

    assert (batch.entries, batch.damages, batch.position, batch.more) == ((), (), mark, False)
    assert retire(files, number, mark)


def test_the_journal_is_read_segment_by_segment_until_all_of_it_was_taken_in(files: OutboxFiles) -> None:
    appender = producer(files, segment_bytes=SMALL)
    for number in range(20):
        appender.append(event(str(number)))

    assert [entry.event.job_name for entry in taken_in(files)] == [str(number) for number in range(20)]


def taken_in(files: OutboxFiles) -> Iterator[Entry]:
    marks: dict[int, int] = {}
    while batch := read_next(files, lambda number: marks.get(number, 0), limit=2):
        assert batch.start == marks.get(batch.segment, 0)
        marks[batch.segment] = batch.position
        yield from batch.entries


def test_an_event_is_never_read_before_its_cause_in_a_segment_that_others_have_left(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    appender = producer(files)
    appender.append(event("0"))
    (old,) = segment_numbers(files)
    end = end_of(files, old)
    looked, go_on = threading.Event(), threading.Event()
    look = journal.takes_appends

    def slow(state: os.stat_result, segment_bytes: int) -> bool:
        found = look(state, segment_bytes)
        if threading.current_thread() is thread and not looked.is_set():
            looked.set()
            assert go_on.wait(SOON)
        return found

    monkeypatch.setattr(journal, "takes_appends", slow)
    thread = threading.Thread(target=lambda: producer(files).append(event("cause")))
    thread.start()
    assert looked.wait(SOON)
    producer(files, segment_bytes=1).append(event("of another run"))

    def position(number: int) -> int:
        if number > old and thread.is_alive():
            # The reader has seen the end of the old segment, and comes to the new one.
            go_on.set()
            thread.join()
            appender.append(event("effect"))
        return end if number == old else 0

    batch = read_next(files, position, limit=10)

    assert batch is not None
    assert [entry.event.job_name for entry in batch.entries] == ["cause"]
    assert names(files) == ["0", "cause", "of another run", "effect"]


# The end of a segment


def test_a_segment_is_archived_when_all_of_it_was_taken_in_and_appends_go_on_in_a_new_one(
    files: OutboxFiles,
) -> None:
    appender = producer(files)
    appender.append(event("1"))
    number = only_segment(files)

    assert not retire(files, number, 0)
    assert retire(files, number, end_of(files, number))
    assert segment_numbers(files) == []
    assert retire(files, number, 0)
    assert appender.append(event("2"))
    assert not appender.append(event("3"))
    assert names(files) == ["2", "3"]


def test_an_append_never_goes_to_a_segment_that_is_being_deleted(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of processes that have it open, and look only now and then whether it is where it was.
    monkeypatch.setattr(journal, "_LOOK_EVERY", 1000.0)
    idle = [producer(files) for _ in range(20)]
    for appender in idle:
        appender.append(event("before"))
    number = only_segment(files)
    assert retire(files, number, end_of(files, number))
    steps: list[str] = []

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **keys: Any) -> Any:
            found = function(*args, **keys)
            if args[0] != files.journal_lock:
                idle.pop().append(event(f"{len(steps)} after {name}"))
                steps.append(f"{len(steps)} after {name}")
            return found

        return call

    with monkeypatch.context() as patch:
        for holder, name in ((Path, "chmod"), (Path, "unlink"), (os, "fchmod"), (os, "ftruncate")):
            patch.setattr(holder, name, watched(name, getattr(holder, name)))
        delete(files, number)

    assert len(steps) >= 2
    assert names(files) == steps


def test_a_segment_isnt_archived_while_an_append_is_under_way(files: OutboxFiles) -> None:
    producer(files).append(event("1"))
    number = only_segment(files)
    end = end_of(files, number)

    with locked(segment_path(files, number), fcntl.LOCK_SH):
        assert not retire(files, number, end)
        assert not retire_all(files, lambda _: end, timeout=1, then=lambda: None)
    assert retire(files, number, end)


def test_a_torn_record_doesnt_keep_a_segment(files: OutboxFiles) -> None:
    producer(files).append(event("1"))
    number = only_segment(files)
    end = end_of(files, number)
    path = segment_path(files, number)
    path.write_bytes(path.read_bytes() + path.read_bytes()[:-1])

    assert retire(files, number, end)


def test_the_whole_journal_is_archived_while_no_append_can_begin(files: OutboxFiles) -> None:
    appender = producer(files, segment_bytes=SMALL, lock_timeout=0.01)
    for number in range(6):
        appender.append(event(str(number)))
    seen: list[object] = []

    def then() -> None:
        seen.append(segment_numbers(files))
        with pytest.raises(OutboxLocked):
            producer(files, lock_timeout=0.01).append(event("new process"))
        with pytest.raises(OutboxLocked):
            appender.append(event("old process"))

    assert len(segment_numbers(files)) > 1
    assert retire_all(files, lambda one: end_of(files, one), timeout=1, then=then)
    assert seen == [[]]
    assert appender.append(event("after"))
    assert names(files) == ["after"]


def test_the_journal_stays_as_it_is_when_one_event_of_it_wasnt_taken_in(files: OutboxFiles) -> None:
    appender = producer(files, segment_bytes=SMALL)
    for number in range(6):
        appender.append(event(str(number)))
    numbers = segment_numbers(files)
    marks = {one: end_of(files, one) for one in numbers}
    appender.append(event("late"))

    assert not retire_all(files, lambda one: marks.get(one, 0), timeout=1, then=pytest.fail)
    assert set(numbers) <= set(segment_numbers(files))
    assert names(files)[-1] == "late"


def test_an_empty_journal_is_let_go_of_too(files: OutboxFiles) -> None:
    files.create()
    called: list[bool] = []

    assert retire_all(files, lambda _: 0, timeout=1, then=lambda: called.append(True))
    assert called == [True]
