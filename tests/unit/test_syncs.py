"""``durability: power``: what is synced and when, who shares a sync, and what a failed one does."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support_outbox import Child, child, event, names, until

from keepline.errors import OutboxUnavailable
from keepline.outbox import refusals, syncs
from keepline.outbox.files import OutboxFiles
from keepline.outbox.journal import Producer
from keepline.outbox.owned import OwnedFile
from keepline.outbox.segments import segment_numbers, segment_path
from keepline.outbox.syncs import Syncs

pytestmark = pytest.mark.timeout(60)

_producers: list[Producer] = []


@pytest.fixture
def files(tmp_path: Path) -> Iterator[OutboxFiles]:
    yield OutboxFiles(tmp_path / "outbox")
    while _producers:
        _producers.pop().close()


def producer(
    files: OutboxFiles, *, synced: bool = True, segment_bytes: int = 1 << 24, lock_timeout: float = 20.0
) -> Producer:
    made = Producer(files, segment_bytes=segment_bytes, lock_timeout=lock_timeout, synced=synced)
    _producers.append(made)
    return made


class Disk:
    """Stands between the appends and the system's syncs: counts, holds back, fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        """How large the segment was when each sync of it began."""
        self.folders: list[str] = []
        """The folders that were synced."""
        self.begun = threading.Event()
        self.hold: Callable[[], object] = lambda: None
        self.broken: set[int] = set()
        """Which syncs fail, from 1 on; all others succeed, as the system has it."""
        self._fdatasync, self._fsync = os.fdatasync, os.fsync
        monkeypatch.setattr(os, "fdatasync", self._data)
        monkeypatch.setattr(os, "fsync", self._folder)

    def _data(self, fd: int) -> None:
        self.sizes.append(os.fstat(fd).st_size)
        number = len(self.sizes)
        hold, self.hold = self.hold, lambda: None
        self.begun.set()
        hold()
        if number in self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._fdatasync(fd)

    def _folder(self, fd: int) -> None:
        self.folders.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        self._fsync(fd)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def size_of(files: OutboxFiles) -> int:
    return segment_path(files, segment_numbers(files)[-1]).stat().st_size


class Appends:
    """Threads that append an event each, and what came of it."""

    def __init__(self, appender: Producer, events: list[str]) -> None:
        self.outcomes: dict[str, str] = {}
        self._threads = [
            threading.Thread(target=self._append, args=(appender, name), daemon=True) for name in events
        ]
        for thread in self._threads:
            thread.start()

    def _append(self, appender: Producer, name: str) -> None:
        try:
            appender.append(event(name))
            self.outcomes[name] = "accepted"
        except Exception as error:
            self.outcomes[name] = str(error)

    def join(self) -> dict[str, str]:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        return self.outcomes


# What is synced


def test_an_append_returns_when_all_of_its_record_has_been_synced(files: OutboxFiles, disk: Disk) -> None:
    appender = producer(files)
    for number in range(5):
        appender.append(event(str(number)))
        assert disk.sizes[-1] == size_of(files)
    assert len(disk.sizes) == 5


def test_nothing_is_synced_where_events_survive_processes_alone(files: OutboxFiles, disk: Disk) -> None:
    producer(files, synced=False).append(event("a"))
    assert (disk.sizes, disk.folders) == ([], [])


def test_a_segment_and_its_folders_are_findable_after_a_power_cut_before_its_first_append_returns(
    files: OutboxFiles, disk: Disk
) -> None:
    appender = producer(files, segment_bytes=300)
    appender.append(event("a", size=300))
    folders = ["journal", "outbox", files.folder.parent.name]
    assert disk.folders == folders
    appender.append(event("b"))
    appender.append(event("c"))
    assert disk.folders == folders * 2


def test_a_segment_that_a_process_made_that_syncs_nothing_is_findable_too(
    files: OutboxFiles, disk: Disk
) -> None:
    producer(files, synced=False).append(event("a"))
    producer(files).append(event("b"))
    assert disk.folders[0] == "journal"
    assert disk.sizes == [size_of(files)]


def test_a_folder_above_the_outbox_that_is_somebody_else_s_is_left_to_them(
    files: OutboxFiles, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_private = syncs.open_private

    def refusing(path: Path, flags: int) -> int:
        if path == files.folder.parent:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open_private(path, flags)

    monkeypatch.setattr(syncs, "open_private", refusing)
    producer(files).append(event("a"))
    assert disk.folders == ["journal", "outbox"]


# Who shares a sync


def test_all_who_wait_for_a_sync_share_the_next_one(files: OutboxFiles, disk: Disk) -> None:
    appender = producer(files)
    appender.append(event("x" * 100))
    record = size_of(files)
    go_on = threading.Event()
    disk.begun.clear()
    disk.hold = lambda: go_on.wait(20)
    first = Appends(appender, ["0" * 100])
    assert disk.begun.wait(20)

    others = Appends(appender, [f"{number:0100}" for number in range(1, 16)])
    until(lambda: size_of(files) == 17 * record)
    assert len(disk.sizes) == 2
    # Nobody takes a sync that began before for one of what was written since.
    assert others.outcomes == {}
    go_on.set()

    assert {*first.join().values(), *others.join().values()} == {"accepted"}
    assert disk.sizes[2] == 17 * record
    # Who has written, and not come to wait yet when that began, needs one more.
    assert len(disk.sizes) < 8


def test_many_threads_that_append_all_the_time_find_their_events_synced(
    files: OutboxFiles, disk: Disk
) -> None:
    appender = producer(files, segment_bytes=20_000)

    def append(thread: int) -> None:
        for number in range(30):
            appender.append(event(f"{thread}-{number}", size=100))

    threads = [threading.Thread(target=append, args=(thread,)) for thread in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(names(files)) == len(set(names(files))) == 16 * 30
    assert len(segment_numbers(files)) > 3
    assert len(disk.sizes) < 16 * 30


def test_who_waits_too_long_for_the_sync_of_another_is_told(files: OutboxFiles, disk: Disk) -> None:
    appender = producer(files, lock_timeout=0.05)
    appender.append(event("before"))
    go_on = threading.Event()
    disk.begun.clear()
    disk.hold = lambda: go_on.wait(20)
    first = Appends(appender, ["first"])
    assert disk.begun.wait(20)

    with pytest.raises(OutboxUnavailable, match=r"can't sync .* more than 0.1 s .*raise `lock_timeout`"):
        appender.append(event("second"))
    assert refusals.total(files) == 1
    go_on.set()
    assert first.join() == {"first": "accepted"}
    appender.append(event("after"))


# Failures


def test_a_failed_sync_is_raised_and_counted_and_its_segment_takes_nothing_more(
    files: OutboxFiles, disk: Disk
) -> None:
    appender = producer(files)
    appender.append(event("before"))
    disk.broken = {2}

    with pytest.raises(OutboxUnavailable, match=r"can't sync .*: Input/output error; see whether `outbox`"):
        appender.append(event("lost, perhaps"))
    appender.append(event("after"))

    sealed, newest = segment_numbers(files)
    assert segment_path(files, sealed).stat().st_mode & 0o777 == 0o400
    assert disk.sizes[-1] == segment_path(files, newest).stat().st_size
    assert refusals.total(files) == 1
    assert names(files)[-1] == "after"


def test_all_who_wrote_before_a_sync_failed_are_told_though_the_next_would_succeed(
    files: OutboxFiles, disk: Disk
) -> None:
    appender = producer(files)
    appender.append(event("0" * 10))
    before = size_of(files)
    go_on = threading.Event()
    disk.begun.clear()
    disk.hold = lambda: go_on.wait(20)
    disk.broken = {2}
    first = Appends(appender, ["1" * 10])
    assert disk.begun.wait(20)
    others = Appends(appender, [str(number) * 10 for number in range(2, 7)])
    until(lambda: size_of(files) == 7 * before)
    go_on.set()

    outcomes = [*first.join().values(), *others.join().values()]
    assert len(outcomes) == 6
    assert all("Input/output error" in outcome for outcome in outcomes)
    # And nobody has asked the system again.
    assert len(disk.sizes) == 2
    assert refusals.total(files) == 6


def test_who_was_synced_before_a_sync_failed_isn_t_concerned(files: OutboxFiles, disk: Disk) -> None:
    appender = producer(files)
    appender.append(event("0"))
    record = size_of(files)
    go_on = threading.Event()
    disk.begun.clear()
    disk.hold = lambda: go_on.wait(20)
    disk.broken = {3}
    first = Appends(appender, ["1"])
    assert disk.begun.wait(20)
    others = Appends(appender, ["2", "3"])
    until(lambda: size_of(files) == 4 * record)
    go_on.set()

    assert first.join() == {"1": "accepted"}
    assert all("Input/output error" in outcome for outcome in others.join().values())


def test_a_folder_that_can_t_be_synced_refuses_the_event(
    files: OutboxFiles, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(OutboxUnavailable, match="Input/output error"):
            producer(files).append(event("a"))
    producer(files).append(event("b"))
    assert len(segment_numbers(files)) == 2


def test_a_folder_that_can_t_be_opened_is_synced_with_the_next_event(
    files: OutboxFiles, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path, flags: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    appender = producer(files)
    with monkeypatch.context() as patch:
        patch.setattr(syncs, "open_private", failing)
        with pytest.raises(OutboxUnavailable, match="raise the limit of open files of this process"):
            appender.append(event("a"))
    assert disk.folders == []
    appender.append(event("b"))
    assert disk.folders[:2] == ["journal", "outbox"]
    assert len(segment_numbers(files)) == 1


def test_a_segment_closed_behind_its_back_is_told_and_trusted_by_who_opens_it_again(
    files: OutboxFiles, disk: Disk
) -> None:
    appender = producer(files)
    appender.append(event("a"))
    path = segment_path(files, segment_numbers(files)[0])
    waiting = Syncs(files)
    file = OwnedFile(path, os.O_WRONLY)
    os.close(file.fd)

    with pytest.raises(OutboxUnavailable, match="can't sync"):
        waiting.wait(file, 1.0)

    again = OwnedFile(path, os.O_WRONLY)
    waiting.wait(again, 1.0)
    again.close()
    appender.append(event("b"))
    assert len(segment_numbers(files)) == 1


# Signals and forks


def test_a_signal_handler_appends_in_the_middle_of_a_sync(files: OutboxFiles, disk: Disk) -> None:
    appender = producer(files, lock_timeout=1.0)
    disk.hold = lambda: signal.raise_signal(signal.SIGUSR1)
    before = signal.signal(signal.SIGUSR1, lambda *_: appender.append(event("handler")))
    try:
        appender.append(event("interrupted"))
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert names(files) == ["interrupted", "handler"]
    # The handler's own, since the one that it interrupted may have begun too early for it.
    assert disk.sizes[1] == size_of(files)
    appender.append(event("after"))
    assert disk.sizes[-1] == size_of(files)


def test_a_signal_handler_appends_while_its_thread_waits_for_the_sync_of_another(
    files: OutboxFiles, disk: Disk
) -> None:
    appender = producer(files)
    appender.append(event("before"))
    go_on = threading.Event()
    disk.begun.clear()
    disk.hold = lambda: go_on.wait(20)
    first = Appends(appender, ["first"])
    assert disk.begun.wait(20)
    size = size_of(files)
    main = threading.get_ident()

    def interrupt() -> None:
        until(lambda: size_of(files) > size)
        time.sleep(0.01)  # Most often it waits by now; it has to work out anyway.
        signal.pthread_kill(main, signal.SIGUSR1)
        until(lambda: len(names(files)) == 4)
        go_on.set()

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGUSR1, lambda *_: appender.append(event("handler")))
    try:
        thread.start()
        appender.append(event("interrupted"))
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert first.join() == {"first": "accepted"}
    assert sorted(names(files)) == ["before", "first", "handler", "interrupted"]


def test_a_sync_that_a_signal_handler_breaks_off_keeps_nobody_waiting(files: OutboxFiles, disk: Disk) -> None:
    appender = producer(files, lock_timeout=0.5)

    def expire(*_: object) -> None:
        raise TimeoutError("the task's own")

    disk.hold = lambda: signal.raise_signal(signal.SIGUSR1)
    before = signal.signal(signal.SIGUSR1, expire)
    try:
        with pytest.raises(TimeoutError, match="the task's own"):
            appender.append(event("broken off"))
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert Appends(appender, ["after"]).join() == {"after": "accepted"}
    assert disk.sizes[-1] == size_of(files)
    assert len(segment_numbers(files)) == 1


def test_a_child_forked_in_the_middle_of_a_sync_doesn_t_wait_for_it(files: OutboxFiles, disk: Disk) -> None:
    appender = producer(files)
    go_on = threading.Event()
    disk.hold = lambda: go_on.wait(20)
    first = Appends(appender, ["parent"])
    assert disk.begun.wait(20)

    def append() -> None:
        began = time.monotonic()
        appender.append(event("child"))
        assert time.monotonic() - began < 10
        assert disk.sizes[-1] == size_of(files)

    forked: Child
    with child(append) as forked:
        assert forked.end() == 0
    go_on.set()
    assert first.join() == {"parent": "accepted"}
    assert names(files) == ["parent", "child"]
