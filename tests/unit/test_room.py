"""The bound of an outbox: what is counted, who is refused and how, and when it takes events again."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support_outbox import event, names

from keepline.errors import OutboxError, OutboxUnavailable
from keepline.outbox import refusals, room
from keepline.outbox.files import OutboxFiles
from keepline.outbox.journal import Producer
from keepline.outbox.room import bytes_used
from keepline.outbox.segments import segment_numbers, segment_path
from keepline.relay.bell import hang

MIB = 1 << 20


_producers: list[Producer] = []


@pytest.fixture
def files(tmp_path: Path) -> Iterator[OutboxFiles]:
    yield OutboxFiles(tmp_path / "outbox")
    while _producers:
        _producers.pop().close()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that were read."""
    found: list[str] = []
    scan = os.scandir

    def counted(path: Any) -> Any:
        found.append(Path(path).name)
        return scan(path)

    monkeypatch.setattr(os, "scandir", counted)
    return found


def producer(files: OutboxFiles, *, segment_bytes: int = 1 << 24, **bounds: int) -> Producer:
    _producers.append(Producer(files, segment_bytes=segment_bytes, lock_timeout=2.0, **bounds))
    return _producers[-1]


def bounded(files: OutboxFiles, max_bytes: int = MIB, segment_bytes: int = 1 << 24) -> Producer:
    return producer(files, max_bytes=max_bytes, segment_bytes=segment_bytes)


def fill(appender: Producer, size: int = 10_000) -> list[str]:
    """Append until it is refused; the names of what was taken."""
    taken: list[str] = []
    while True:
        try:
            appender.append(event(str(len(taken)), size=size))
        except OutboxError:
            return taken
        taken.append(str(len(taken)))


def archived(files: OutboxFiles, number: int) -> Path:
    """Move a segment to the archive, as a relay does that has taken it in."""
    files.archive.mkdir(exist_ok=True)
    return segment_path(files, number).rename(files.archive / segment_path(files, number).name)


# What is counted


def test_journal_archive_and_ledger_count_and_nothing_else_does(files: OutboxFiles) -> None:
    assert bytes_used(files) == 0
    files.create()
    files.archive.mkdir(exist_ok=True)
    files.damaged.mkdir(exist_ok=True)
    sizes = {
        files.journal / "a.seg": 1,
        files.archive / "b.seg": 20,
        files.ledger: 300,
        files.folder / "ledger.db-wal": 4000,
        files.folder / "ledger.db-shm": 50_000,
    }
    for path, size in sizes.items():
        path.write_bytes(b"x" * size)
    for path in (files.relay_log, files.refused, files.damaged / "c.seg"):
        path.write_bytes(b"x" * 7)

    assert bytes_used(files) == 54_321


def test_a_segment_that_moves_to_the_archive_meanwhile_counts_once(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer(files).append(event("a"))
    (number,) = segment_numbers(files)
    size = segment_path(files, number).stat().st_size
    sizes = room._sizes

    def moving(folder: Path, prefix: str = "") -> dict[str, int]:
        if folder == files.archive:
            archived(files, number)
        return sizes(folder, prefix)

    monkeypatch.setattr(room, "_sizes", moving)
    assert bytes_used(files) == size


def test_a_segment_that_is_deleted_meanwhile_doesn_t_count(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer(files).append(event("a"))
    scan = os.scandir

    def deleting(folder: Any) -> Any:
        entries = scan(folder)
        if Path(folder) == files.journal:
            segment_path(files, segment_numbers(files)[0]).unlink()
        return entries

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", deleting)
        assert bytes_used(files) == 0


def test_a_folder_that_can_t_be_read_is_told_with_the_remedy(files: OutboxFiles) -> None:
    files.folder.mkdir()
    files.archive.write_text("no folder")
    with pytest.raises(OutboxUnavailable, match=r"can't read .*archive.*name a folder in `outbox`"):
        bytes_used(files)


# Refusals


def test_a_full_outbox_refuses_says_what_to_do_counts_it_and_keeps_all_it_took(files: OutboxFiles) -> None:
    appender = bounded(files)
    taken = fill(appender)

    with pytest.raises(OutboxUnavailable) as caught:
        appender.append(event("lost"))
    used = bytes_used(files)
    assert str(caught.value) == (
        f"the outbox {files.folder} is full: it holds {used} of 1048576 bytes, and a new segment takes "
        "131072; see with `keepline status` which destination doesn't take its events, or raise `max_bytes`"
    )
    assert names(files) == taken
    assert refusals.total(files) == 2
    assert MIB - 2 * MIB // 8 < used < MIB + 11_000


def test_a_segment_is_an_eighth_of_the_bound_at_most(files: OutboxFiles) -> None:
    fill(bounded(files))
    sizes = [segment_path(files, number).stat().st_size for number in segment_numbers(files)]
    assert len(sizes) in (7, 8)
    assert all(MIB // 8 <= size < MIB // 8 + 11_000 for size in sizes)


def test_smaller_segments_stay_as_they_are_set(files: OutboxFiles) -> None:
    fill(bounded(files, segment_bytes=50_000))
    assert len(segment_numbers(files)) > 15


def test_the_last_segment_is_filled_before_anything_is_refused(files: OutboxFiles) -> None:
    appender = bounded(files)
    appender.append(event("first"))
    files.ledger.write_bytes(b"x" * MIB)

    assert len(fill(appender, size=1000)) > 100
    assert len(segment_numbers(files)) == 1
    assert refusals.total(files) == 1


def test_what_is_full_is_sealed_so_that_a_relay_can_clear_it_away(files: OutboxFiles) -> None:
    fill(bounded(files))
    assert {segment_path(files, number).stat().st_mode & 0o777 for number in segment_numbers(files)} == {
        0o400
    }


def test_an_archive_fills_an_outbox_as_the_journal_does(files: OutboxFiles) -> None:
    appender = bounded(files)
    while True:
        taken = fill(appender)
        for number in segment_numbers(files):
            archived(files, number)
        if not taken:
            break
    with pytest.raises(OutboxUnavailable, match="is full"):
        appender.append(event("lost"))
    with pytest.raises(OutboxUnavailable, match="is full"):
        bounded(files).append(event("lost"))


def test_refusals_read_no_folder_until_some_time_has_passed(files: OutboxFiles, looks: list[str]) -> None:
    appender = bounded(files)
    fill(appender)
    fill(appender)
    del looks[:]
    refused = refusals.total(files)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: 0.0)
        for _ in range(100):
            with pytest.raises(OutboxUnavailable):
                appender.append(event("lost"))
    assert looks == []
    assert refusals.total(files) == refused + 100


def test_who_finds_no_room_wakes_a_relay_that_sleeps_now_and_each_time_it_looks(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_LOOK_EVERY", 0.0)
    appender = bounded(files)
    appender.append(event("first"))
    files.ledger.write_bytes(b"x" * MIB)
    fill(appender)
    bell = hang(files.journal)
    try:
        for _ in range(3):
            with pytest.raises(OutboxUnavailable):
                appender.append(event("lost"))
            assert select.select([bell], [], [], 10)[0]
            assert bell.silence()
    finally:
        bell.close()
    assert names(files)[0] == "first"


def test_room_is_seen_at_once_when_a_segment_goes(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_LOOK_EVERY", 1000.0)
    appender = bounded(files)
    fill(appender)
    first, second = (archived(files, number) for number in segment_numbers(files)[:2])
    with pytest.raises(OutboxUnavailable):
        appender.append(event("lost"))

    first.unlink()
    second.unlink()

    appender.append(event("after"))
    assert names(files)[-1] == "after"


def test_room_that_a_smaller_ledger_leaves_is_seen_after_a_while(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    appender = bounded(files, segment_bytes=1)
    appender.append(event("before"))
    files.ledger.write_bytes(b"x" * MIB)
    with pytest.raises(OutboxUnavailable):
        appender.append(event("lost"))

    os.truncate(files.ledger, 0)
    later = time.monotonic() + 1.0
    monkeypatch.setattr(time, "monotonic", lambda: later)

    appender.append(event("after"))
    assert names(files) == ["before", "after"]


def test_a_segment_that_another_process_could_make_takes_the_appends_of_all(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_LOOK_EVERY", 1000.0)
    appender = bounded(files)
    fill(appender)

    bounded(files, max_bytes=2 * MIB).append(event("of another"))

    appender.append(event("after"))
    assert names(files)[-2:] == ["of another", "after"]


# Single events


def test_an_event_over_the_limit_is_refused_whole_with_the_setting_s_name_and_counted(
    files: OutboxFiles,
) -> None:
    appender = producer(files, max_event_bytes=1000)
    appender.append(event("before"))
    large = event("large", size=1000)

    with pytest.raises(ValueError, match="`max_event_bytes`") as caught:
        appender.append(large)
    appender.append(event("after"))

    assert str(caught.value) == (
        f"an event of {len(large.body)} bytes is larger than `max_event_bytes`, which is 1000; "
        "look for a facet that grew out of hand, or raise the setting"
    )
    assert names(files) == ["before", "after"]
    assert refusals.total(files) == 1


def test_an_event_of_just_the_limit_is_taken(files: OutboxFiles) -> None:
    just = event("just", size=900)
    appender = producer(files, max_event_bytes=len(just.body))
    appender.append(just)
    assert names(files) == ["just"]
