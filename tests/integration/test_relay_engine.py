"""The relay in trouble: full disks, damage, folders that vanish, signals, floods, unforeseen errors."""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import psutil
import pytest
from tests.support_outbox import child, fill, small_disk
from tests.support_relay import (
    EMITTER,
    Process,
    ThreadedRelay,
    account,
    all_once,
    all_there,
    append,
    arrive_once,
    client,
    end_relays,
    leg,
    names_in,
    relay_of,
    run_event,
    settled,
    status,
    status_of,
    switches,
    transport,
    until,
)

from keepline.config import Settings
from keepline.demo.destination import Fault, RecordingDestination
from keepline.errors import KeeplineError
from keepline.outbox.files import OutboxFiles
from keepline.outbox.segments import segment_numbers, segment_path
from keepline.outbox.sqlite import reading
from keepline.relay.lock import RelayLock
from keepline.relay.relay import Relay

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

Start = Callable[..., Process]
Deliver = Callable[..., ThreadedRelay]

as_root = pytest.mark.skipif(os.getuid() != 0, reason="mounting a disk takes root's rights")


def configured(outbox: Path, legs: dict[str, Any], **keys: Any) -> str:
    return json.dumps(transport(outbox, legs, **keys))


# Disks


@as_root
def test_a_full_disk_stops_nothing_for_good(
    destination: RecordingDestination, tmp_path: Path, keepline: Start
) -> None:
    with small_disk(tmp_path / "disk", kilobytes=8192) as disk:
        outbox = disk / "outbox"
        settings = configured(outbox, {"a": leg(destination)}, relay="external", stop_timeout=0.2)
        running = keepline("relay", OPENLINEAGE__TRANSPORT=settings)
        until(lambda: "delivering from" in running.output)
        names = append(outbox, map(str, range(10)))
        arrive_once(destination, names)
        until(lambda: account(outbox)["pending"] == 0)
        # Events in the journal that the ledger has no room for.
        running.signal(signal.SIGSTOP)
        names += append(outbox, map(str, range(10, 110)), size=8000)
        filler = fill(disk)
        running.signal(signal.SIGCONT)
        until(lambda: "and goes on trying" in running.output)
        assert running.popen.poll() is None
        filler.unlink()
        arrive_once(destination, names)
        until(lambda: settled(outbox))
        until(lambda: "again" in running.output)
        # It didn't fill the log either.
        assert running.output.count("and goes on trying") <= 2
        running.signal(signal.SIGTERM)
        assert running.end() == 0
        assert account(outbox) == {"delivered": 110, "dead": 0, "pending": 0}


@as_root
def test_a_relay_starts_and_delivers_on_a_disk_that_is_full(
    destination: RecordingDestination, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", kilobytes=4096) as disk:
        outbox = disk / "outbox"
        settings = {"a": leg(destination)}
        emitting = client(outbox, settings, relay_idle=0.1)
        emitting.emit(run_event("first"))
        arrive_once(destination, ["first"])
        until(lambda: relay_of(outbox) is None)
        append(outbox, ["second"])
        fill(disk)
        emitting.transport.wake()  # type: ignore[attr-defined]
        found = until(lambda: relay_of(outbox))
        (disk / "filler").unlink()
        try:
            arrive_once(destination, ["first", "second"])
            assert found.pid
        finally:
            end_relays(outbox)


@as_root
def test_answers_that_can_t_be_marked_hold_the_lane_until_they_can(
    destination: RecordingDestination, tmp_path: Path, keepline: Start
) -> None:
    with small_disk(tmp_path / "disk", kilobytes=8192) as disk:
        outbox = disk / "outbox"
        destination.answer(201, delay=0.5)
        names = append(outbox, map(str, range(40)))
        settings = configured(outbox, {"a": leg(destination)}, relay="external", stop_timeout=0.2)
        running = keepline("relay", OPENLINEAGE__TRANSPORT=settings)
        destination.wait_for(lambda d: d.in_flight == 4, 30)
        # What the ledger would write its marks into is in use: a reader keeps its log from being begun anew.
        with reading(OutboxFiles(outbox)):
            filler = fill(disk)
            destination.answer(201)
            until(lambda: "can't use the ledger, and goes on trying" in running.output)
            held = len(names_in(destination))
            filler.unlink()
        arrive_once(destination, names)
        until(lambda: settled(outbox))
        assert held < 40
        assert account(outbox) == {"delivered": 40, "dead": 0, "pending": 0}


def test_a_ledger_that_somebody_else_keeps_locked_is_waited_for(
    destination: RecordingDestination, outbox: Path, deliver: Deliver, caplog: pytest.LogCaptureFixture
) -> None:
    relay = deliver({"a": leg(destination)})
    arrive_once(destination, append(outbox, ["one"]))
    assert relay.idle()
    connection = apsw.Connection(str(outbox / "ledger.db"))
    connection.execute("BEGIN IMMEDIATE")
    try:
        append(outbox, ["two"])
        until(lambda: "can't take events in, and goes on trying" in caplog.text)
    finally:
        connection.execute("ROLLBACK")
        connection.close()
    assert relay.idle()
    assert all_once(destination, ["one", "two"])


# Damage


def test_a_damaged_record_is_skipped_and_told_of_and_what_follows_is_delivered(
    destination: RecordingDestination, outbox: Path, deliver: Deliver, caplog: pytest.LogCaptureFixture
) -> None:
    append(outbox, ["one"])
    files = OutboxFiles(outbox)
    (number,) = segment_numbers(files)
    begin = segment_path(files, number).stat().st_size
    append(outbox, ["damaged"])
    end = segment_path(files, number).stat().st_size
    append(outbox, ["three"])
    with segment_path(files, number).open("r+b") as file:
        file.seek(begin + 40)
        file.write(b"\xff")
    assert deliver({"a": leg(destination)}).idle()
    assert names_in(destination) == ["one", "three"]
    assert f"skipped {end - begin} bytes of segment {number} at {begin}" in caplog.text
    assert account(outbox) == {"delivered": 2, "dead": 0, "pending": 0}


def test_a_record_that_a_kill_has_torn_keeps_neither_the_relay_awake_nor_the_segment_there(
    destination: RecordingDestination, outbox: Path, process: Start
) -> None:
    emitter = process(
        EMITTER, OPENLINEAGE__TRANSPORT=configured(outbox, {"a": leg(destination)}, relay_idle=0.1)
    )
    append(outbox, ["one"])
    files = OutboxFiles(outbox)
    (number,) = segment_numbers(files)
    with segment_path(files, number).open("ab") as file:
        file.write(b"\xff\xfeK\x01\xff\x00\x00\x00torn")
    emitter.tell("0 1")
    arrive_once(destination, ["one", "0"])
    until(lambda: relay_of(outbox) is None)
    assert segment_numbers(files) == []


# Folders that vanish


@pytest.mark.parametrize("gone", ["the outbox", "the journal", "the lock", "the ledger", "moved away"])
def test_what_vanishes_under_a_relay_ends_it_and_the_next_append_begins_anew(
    gone: str, destination: RecordingDestination, outbox: Path, process: Start
) -> None:
    emitter = process(
        EMITTER, OPENLINEAGE__TRANSPORT=configured(outbox, {"a": leg(destination)}, look_every=0.2)
    )
    emitter.tell("0 5")
    names = [str(number) for number in range(5)]
    arrive_once(destination, names)
    until(lambda: settled(outbox))
    first = until(lambda: relay_of(outbox))
    with (outbox / "relay.log").open() as log:
        if gone == "the outbox":
            shutil.rmtree(outbox)
        elif gone == "the journal":
            shutil.rmtree(outbox / "journal")
        elif gone == "the lock":
            (outbox / "relay.lock").unlink()
        elif gone == "the ledger":
            (outbox / "ledger.db").unlink()
        else:
            outbox.rename(outbox.with_name("elsewhere"))
        until(lambda: not psutil.pid_exists(first.pid))
        said = log.read()
    assert "is gone; events wait in the outbox" in said
    number = 100

    def arrived() -> bool:
        nonlocal number
        emitter.tell(f"{number} 1")
        emitter.said(f"done {number}")
        names.append(str(number))
        number += 1
        found = relay_of(outbox)
        return found is not None and found.pid != first.pid

    until(arrived)
    until(lambda: set(names_in(destination)) >= set(names[-1:]))
    until(lambda: settled(outbox))
    assert all_there(destination, names)


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_relay_in_time_with_requests_hanging_and_nothing_is_lost(
    number: int, destination: RecordingDestination, outbox: Path, keepline: Start
) -> None:
    destination.fault(Fault.NO_ANSWER)
    names = append(outbox, map(str, range(20)))
    settings = configured(outbox, {"a": leg(destination)}, stop_timeout=0.5)
    running = keepline("relay", OPENLINEAGE__TRANSPORT=settings)
    destination.wait_for(lambda d: d.in_flight == 4, 30)
    began = time.monotonic()
    running.signal(number)
    assert running.end() == 0
    assert time.monotonic() - began < 0.5 + 1.0
    assert account(outbox) == {"delivered": 0, "dead": 0, "pending": 20}
    destination.answer(201)
    settings = configured(outbox, {"a": leg(destination)}, relay_idle=0.1)
    again = keepline("relay", "--exit-when-idle", OPENLINEAGE__TRANSPORT=settings)
    assert again.end() == 0, again.output
    assert all_once(destination, names)


def test_a_signal_lets_requests_under_way_come_to_their_end(
    destination: RecordingDestination, outbox: Path, keepline: Start
) -> None:
    destination.answer(201, delay=0.3)
    append(outbox, map(str, range(20)))
    running = keepline("relay", OPENLINEAGE__TRANSPORT=configured(outbox, {"a": leg(destination)}))
    destination.wait_for(lambda d: d.in_flight == 4, 30)
    running.signal(signal.SIGTERM)
    assert running.end() == 0
    delivered = len(names_in(destination))
    assert delivered % 4 == 0
    assert account(outbox) == {"delivered": delivered, "dead": 0, "pending": 20 - delivered}


def test_a_relay_that_was_stopped_goes_on_where_it_was(
    destination: RecordingDestination, outbox: Path, process: Start
) -> None:
    destination.answer(201, delay=0.01)
    settings = configured(outbox, {"a": leg(destination, timeout=0.3)}, max_connections=4)
    emitter = process(EMITTER, OPENLINEAGE__TRANSPORT=settings)
    emitter.tell("0 50")
    destination.wait_for(lambda d: len(d.events) > 5, 30)
    pid = until(lambda: relay_of(outbox)).pid
    os.kill(pid, signal.SIGSTOP)
    until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    emitter.tell("100 50")
    emitter.said("done 100")
    # Requests under way run out of their time meanwhile; nobody takes over from one that lives.
    time.sleep(0.5)
    assert relay_of(outbox).pid == pid  # type: ignore[union-attr]
    os.kill(pid, signal.SIGCONT)
    names = [str(number) for number in [*range(50), *range(100, 150)]]
    until(lambda: settled(outbox))
    assert all_there(destination, names)
    assert len(names_in(destination)) <= len(names) + 4
    assert relay_of(outbox).pid == pid  # type: ignore[union-attr]


# Floods


def test_a_flood_of_20000_events_is_delivered_from_a_bounded_memory(
    destination: RecordingDestination, outbox: Path, keepline: Start
) -> None:
    names = append(outbox, map(str, range(20_000)), size=2000)
    settings = configured(
        outbox, {"a": leg(destination)}, relay_idle=0.1, max_connections=16, segment_bytes=4_000_000
    )
    running = keepline("relay", "--exit-when-idle", OPENLINEAGE__TRANSPORT=settings)
    most = 0
    began = time.monotonic()
    while running.popen.poll() is None:
        try:
            most = max(most, psutil.Process(running.pid).memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.02)
        assert time.monotonic() - began < 60
    assert running.end() == 0, running.output
    assert all_once(destination, names)
    print(f"{most / 1e6:.0f} MB at most, {20_000 / (time.monotonic() - began):.0f} events/s, start included")
    assert most < 110e6


def test_large_events_are_held_in_memory_a_few_at_a_time(
    destination: RecordingDestination, outbox: Path, keepline: Start
) -> None:
    destination.fault(Fault.NO_ANSWER)
    append(outbox, map(str, range(300)), size=1 << 20)
    settings = configured(outbox, {"a": leg(destination, timeout=100)}, stop_timeout=0.1)
    running = keepline("relay", OPENLINEAGE__TRANSPORT=settings)
    until(lambda: status(outbox).waiting == 0, timeout=50)
    destination.wait_for(lambda d: d.in_flight == 4, 30)
    assert psutil.Process(running.pid).memory_info().rss < 350e6


# What nobody foresaw


def test_an_error_that_nobody_foresaw_ends_the_relay_with_a_traceback_and_an_exit_status(
    destination: RecordingDestination, outbox: Path, keepline: Start
) -> None:
    destination.down()
    append(outbox, ["one", "two"])
    settings = configured(outbox, {"a": leg(destination, compression="gzip")}, stop_timeout=0.1)
    first = keepline("relay", OPENLINEAGE__TRANSPORT=settings)
    until(lambda: bool(status(outbox).destinations) and status_of(outbox, "a").state == "out")
    first.signal(signal.SIGTERM)
    assert first.end() == 0
    # One more try than a ledger can count: no writer of ours comes so far.
    connection = apsw.Connection(str(outbox / "ledger.db"))
    connection.execute("UPDATE delivery SET attempts = 9223372036854775807")
    connection.close()
    second = keepline("relay", OPENLINEAGE__TRANSPORT=settings)
    assert second.end() == 1
    assert "the relay meets an error" in second.output
    assert "Traceback" in second.output
    assert "OverflowError" in second.output
    assert second.output.splitlines()[-1].startswith("Error: the relay of ")
    assert relay_of(outbox) is None
    assert account(outbox) == {"delivered": 0, "dead": 0, "pending": 2}


def test_a_relay_that_can_t_be_made_lets_go_of_all_that_it_had_opened(
    outbox: Path, destination: RecordingDestination
) -> None:
    settings = Settings.from_dict(transport(outbox, {"a": leg(destination), "b": leg(destination)}))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)

    def opened() -> set[int]:
        return {int(name) for name in os.listdir("/proc/self/fd")}

    def make(spare: int) -> bool:
        """Make a relay where so many more files can be opened than are."""
        lock = RelayLock.take(OutboxFiles(outbox))
        assert lock is not None
        free = sorted(set(range(1000)) - opened())
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[spare], most))
        try:
            Relay(settings, lock, ends_when_idle=True)
        except (KeeplineError, OSError):
            assert not lock.held
            return False
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return True

    def make_with_ever_more() -> None:
        # An event loop that can't be made itself complains when it is forgotten.
        warnings.simplefilter("ignore")
        sys.unraisablehook = lambda complaint: None
        before, spare = len(opened()), 0
        while not make(spare):
            gc.collect()
            assert len(opened()) == before, f"with {spare} to spare"
            spare += 1
        assert spare > 5

    with child(make_with_ever_more) as one:
        assert one.end() == 0


def test_a_detached_relay_that_meets_an_error_says_so_in_its_log(
    destination: RecordingDestination, outbox: Path, process: Start
) -> None:
    outbox.mkdir()
    (outbox / "ledger.db").mkdir()
    emitter = process(EMITTER, OPENLINEAGE__TRANSPORT=configured(outbox, {"a": leg(destination)}))
    emitter.tell("0 3")
    emitter.said("done 0")
    until(lambda: "can't open the ledger" in (outbox / "relay.log").read_text())
    until(lambda: relay_of(outbox) is None)
    assert len(segment_numbers(OutboxFiles(outbox))) == 1


def test_a_relay_in_trouble_does_not_spin(
    destination: RecordingDestination, outbox: Path, keepline: Start
) -> None:
    settings = configured(outbox, {"a": leg(destination)}, relay="external")
    running = keepline("relay", OPENLINEAGE__TRANSPORT=settings)
    until(lambda: "delivering from" in running.output)
    # A name that looks like a segment's and can't be read as one.
    outbox.joinpath("journal", f"{1:020d}.seg").mkdir()
    until(lambda: "can't take events in" in running.output)
    before = switches(running.pid)
    time.sleep(1.0)  # nothing is waited for: this is what is measured
    assert switches(running.pid) - before < 60
    outbox.joinpath("journal", f"{1:020d}.seg").rmdir()
    until(lambda: "can take events in again" in running.output)
    arrive_once(destination, append(outbox, ["one"]))


@pytest.fixture
def shared_memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_what_was_taken_in_is_delivered_in_order_though_its_segment_can_t_be_archived(
    destination: RecordingDestination, outbox: Path, shared_memory: Path
) -> None:
    small = {"segment_bytes": 1}
    relay = ThreadedRelay(Settings.from_dict(transport(outbox, {"a": leg(destination)}, **small)))
    archive, away = outbox / "archive", outbox / "away"
    try:
        append(outbox, ["first"], run=lambda _: "run", segment_bytes=1)
        arrive_once(destination, ["first"])
        until(lambda: len(list(archive.iterdir())) == 1)
        archive.rename(away)
        # A folder, and one to which nothing can be moved: it is on another disk.
        archive.symlink_to(shared_memory, target_is_directory=True)
        # Each in a segment of its own.
        names = append(outbox, map(str, range(20)), run=lambda _: "run", segment_bytes=1)
        until(lambda: len(destination.events) == 21)
        assert relay.idle()
        archive.unlink()
        away.rename(archive)
        names += append(outbox, ["last"], run=lambda _: "run", segment_bytes=1)
        assert relay.idle()
        until(lambda: len(list(archive.iterdir())) == 22)
    finally:
        relay.stop()
    assert names_in(destination) == ["first", *names]
    assert account(outbox) == {"delivered": 22, "dead": 0, "pending": 0}
