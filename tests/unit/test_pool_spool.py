"""What a pool has accepted: where it is, and what becomes of it when its owner dies or the disk is full."""

from __future__ import annotations

import os
import pickle
import signal
import stat
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support_outbox import fill, small_disk
from tests.unit.pool_support import (
    METHODS,
    SOON,
    AskingPool,
    Folder,
    Picky,
    folder,
    has_ended,
    make,
    outcome,
    run,
    until,
)

from keepline.errors import CallRefused, PoolError
from keepline.pool import Bounds, Pool
from keepline.pool import segments as segments_module
from keepline.pool.aside import KEPT_SECONDS, set_aside, set_aside_files
from keepline.pool.place import spare_root
from keepline.pool.position import Position
from keepline.pool.segments import Segments
from keepline.pool.spool import Spool
from keepline.pool.workers import Workers
from keepline.pool.written import arguments_of, pack, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["folder", "make", "run"]

pytestmark = pytest.mark.timeout(120)


def call(number: int, size: int = 10) -> bytes:
    return pack("write_slowly", arguments_of((number, "x" * size), {}), time.time())


def numbers(spool: Spool) -> list[int]:
    """What is left in a spool, in its order."""
    segments = Segments(spool.place)
    try:
        return [pickle.loads(found.call.arguments)[0][0] for found in segments.waiting(spool.position())]
    finally:
        segments.close()


@pytest.fixture
def spool(folder: Folder) -> Iterator[Spool]:
    spool = Spool(folder.spools, Bounds())
    yield spool
    spool.end()


def spools(folder: Folder) -> list[Path]:
    """The spools there are, but what was set aside."""
    return [one for one in folder.spools.iterdir() if one.name != "aside"]


def done(folder: Folder) -> list[int]:
    return [int(what) for what in folder.entries() if what.isdigit()]


# On disk


def test_what_was_accepted_is_this_users_alone_and_goes_when_it_is_done(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    pool = make()
    pool.ask("hold", "one")
    (home,) = spools(folder)
    assert pool.spool == home
    for path in (folder.spools, home, *home.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    folder.allow("one")
    assert pool.stop(SOON) == 0
    assert spools(folder) == []


def test_a_file_goes_when_all_in_it_is_done(make: Callable[..., AskingPool], folder: Folder) -> None:
    pool = make(bounds=Bounds(segment_bytes=2000))
    pool.ask("hold", "one")
    for number in range(100):
        pool.submit("write", number)
    (home,) = spools(folder)
    assert len(list(home.glob("*.calls"))) > 2
    folder.allow("one")
    until(lambda: pool.pending == 0)
    assert len(list(home.glob("*.calls"))) == 1
    assert done(folder) == list(range(100))


def test_who_submits_wakes_the_manager_once_however_many_calls_there_are(
    make: Callable[..., AskingPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make()
    pool.ask("echo", 1).result()
    until(lambda: pool._manager is not None and pool._manager.workers.watching)
    looked, look = [], Workers.look
    monkeypatch.setattr(Workers, "look", lambda *args: (looked.append(1), look(*args))[1])
    for number in range(1000):
        pool.submit("echo", number)
    pool.ask("echo", 1).result()
    assert looked == []


def test_calls_are_done_in_their_order_although_their_worker_is_killed_again_and_again(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    pool = make(attempts=1000)
    killed = 0
    for number in range(200):
        pool.submit("write_slowly", number)
    while len(done(folder)) < 200:
        for pid in [pid for pid in pool.pids if pid in folder.pids("built")]:
            os.kill(pid, signal.SIGKILL)
            killed += 1
            until(lambda pid=pid: pid not in pool.pids)
            before = len(done(folder))
            until(lambda before=before: len(done(folder)) >= min(before + 40, 200))
    found = done(folder)
    assert sorted(set(found)) == list(range(200))
    assert found == sorted(found)  # what was run twice, too
    assert len(found) <= 200 + killed


BURST = """
import psutil
this = psutil.Process()
pool.submit("hold", "one")
until(lambda: folder.pids("holds one"))
before = this.memory_info().rss
for number in range(10_000):
    pool.submit("echo", number, "x" * 4000)
grown = this.memory_info().rss - before
assert pool.pending == 10_001
folder.allow("one")
print(grown)
until_done = time.monotonic() + 60
while pool.pending:
    assert time.monotonic() < until_done
    time.sleep(0.1)
assert pool.stop(20) == 0
"""


def test_a_burst_of_10000_calls_is_on_disk_and_not_in_memory(
    run: Callable[..., subprocess.Popen[str]], folder: Folder, record_property: Callable[[str, object], None]
) -> None:
    program = run(BURST)
    out, err = program.communicate(timeout=100)
    assert (program.returncode, err) == (0, "")
    record_property("grown", int(out))
    assert int(out) < 8_000_000  # of 40 MB


# When the owner dies


@pytest.mark.parametrize("method", METHODS)
def test_what_a_killed_owner_had_accepted_is_done_by_the_next_in_its_order(
    run: Callable[..., subprocess.Popen[str]], make: Callable[..., AskingPool], folder: Folder, method: str
) -> None:
    owner = run(
        """
pool.submit("hold", "one")
until(lambda: folder.pids("holds one"))
for number in range(100):
    pool.submit("write", number)
os.kill(pool.pids[0], signal.SIGSTOP)
os.kill(os.getpid(), signal.SIGKILL)
""",
        method,
    )
    owner.wait(SOON)
    folder.allow("one")
    assert done(folder) == []
    pool = make(method=method)
    assert pool.adopt() == 101
    until(lambda: len(done(folder)) == 100)
    assert done(folder) == list(range(100))
    assert spools(folder) == [pool.spool]
    (stopped,) = set(folder.pids("built")) - set(pool.pids)
    os.kill(stopped, signal.SIGCONT)
    until(lambda: has_ended(stopped))
    assert done(folder) == list(range(100))  # nothing was left for it


def test_an_owner_killed_at_any_instant_loses_nothing_that_it_accepted(
    run: Callable[..., subprocess.Popen[str]], make: Callable[..., AskingPool], folder: Folder
) -> None:
    accepted = 0
    for number in range(3):
        owner = run(f"""
pool.adopt()
for number in range({number} * 100_000, {number + 1} * 100_000):
    pool.submit("write", number)
    print(number, flush=True)
""")
        assert owner.stdout is not None
        for line in owner.stdout:
            accepted = int(line)
            if accepted % 100_000 == 150:
                break
        owner.kill()
        accepted = max([accepted, *(int(line) for line in owner.stdout.read().split())])
        owner.wait(SOON)
        until(lambda: all(has_ended(pid) for pid in folder.pids("built")))
        folder.write(f"accepted to {accepted}")
    pool = make()
    pool.adopt()
    until(lambda: pool.pending == 0)
    counts = Counter(done(folder))
    tops = [int(what.split()[-1]) for what in folder.entries() if what.startswith("accepted to ")]
    for top in tops:
        assert set(range(top // 100_000 * 100_000, top + 1)) <= set(counts)
    assert sum(counts.values()) - len(counts) <= 2 * len(tops)  # what was in hand


def test_a_living_owners_spool_is_left_alone(
    run: Callable[..., subprocess.Popen[str]], make: Callable[..., AskingPool], folder: Folder
) -> None:
    owner = run("""
pool.submit("hold", "one")
pool.submit("write", 1)
print(flush=True)
until(lambda: folder.allowed("end"))
assert pool.stop(20) == 0
""")
    assert owner.stdout is not None
    owner.stdout.readline()
    other = make()
    assert other.adopt() == 0
    assert len(spools(folder)) <= 2
    folder.allow("one")
    folder.allow("end")
    outcome(owner)
    assert done(folder) == [1]


def test_what_a_stop_leaves_is_done_by_the_next_pool(make: Callable[..., AskingPool], folder: Folder) -> None:
    first = make()
    first.submit("hang_once", "one")
    until(lambda: "begins one" in folder.entries())
    for number in range(5):
        first.submit("write", number)
    assert first.stop(0) == 6
    folder.allow("one")
    second = make()
    assert second.adopt() == 6
    until(lambda: second.pending == 0)
    assert folder.entries().count("begins one") == 2
    assert done(folder) == list(range(5))


def test_nothing_is_made_or_started_to_adopt_nothing(make: Callable[..., AskingPool], folder: Folder) -> None:
    pool = make()
    assert pool.adopt() == 0
    assert (pool.pids, pool.spool, folder.spools.exists()) == ([], None, False)


def test_without_a_folder_calls_end_with_their_pool(make: Callable[..., AskingPool], folder: Folder) -> None:
    pool = make(folder=None)
    pool.submit("hang")
    until(lambda: "hangs" in folder.entries())
    home = pool.spool
    assert home is not None
    assert pool.stop(0) == 1
    assert not home.parent.exists()
    assert not folder.spools.exists()


def test_a_spool_that_others_may_write_to_is_left_alone(
    make: Callable[..., AskingPool], folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    planted = Spool(folder.spools, Bounds())
    planted.append(call(1))
    home = planted.place.home
    planted._lock.close()  # as if its owner had died
    home.chmod(0o777)
    pool = make()
    assert pool.adopt() == 0
    assert "is left alone: it is not this user's own" in caplog.text
    home.chmod(0o700)
    assert pool.adopt() == 1
    until(lambda: done(folder) == [1])


def test_a_folder_that_others_may_write_to_is_not_used(
    make: Callable[..., AskingPool], folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.spools.mkdir(mode=0o777)
    folder.spools.chmod(0o777)
    pool = make()
    assert pool.ask("echo", 1).result() == 1
    assert list(folder.spools.iterdir()) == []
    (record,) = caplog.records
    assert "others may write there" in record.getMessage()


def test_an_owner_that_is_killed_while_it_makes_its_spool_leaves_nothing_for_long(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    abandoned = folder.spools / ".new-1-abc"
    abandoned.mkdir(parents=True, mode=0o700)
    folder.spools.chmod(0o700)
    (abandoned / "lock").touch(mode=0o600)
    pool = make()
    assert pool.adopt() == 0
    assert abandoned.exists()  # it may be in the making
    long_ago = time.time() - 7200
    os.utime(abandoned, (long_ago, long_ago))
    assert pool.adopt() == 0
    assert not abandoned.exists()


# What can't be read


def test_a_call_that_was_cut_off_is_passed_over_when_there_is_a_later_file(spool: Spool) -> None:
    spool.append(call(1))
    spool.append(call(2)[:-3])
    assert numbers(spool) == [1]
    spool._close_segment()
    spool.append(call(3))
    assert numbers(spool) == [1, 3]


def test_behind_a_damaged_call_the_next_is_found(spool: Spool) -> None:
    for number in (1, 2, 3):
        spool.append(call(number))
    (path,) = spool.place.segments().values()
    data = bytearray(path.read_bytes())
    data[len(call(1)) + 20] ^= 255
    path.write_bytes(data)
    assert numbers(spool) == [1, 3]


def test_a_call_that_is_written_while_it_is_looked_for_is_not_taken_for_damage(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.append(call(1))
    looked: list[object] = []

    def too_early(fd: int, offset: int) -> Any:
        looked.append(offset)
        if len(looked) == 1:  # what it sees is what there was before
            spool.append(call(2))
            spool.append(call(3))
            return None
        return read(fd, offset)

    monkeypatch.setattr(segments_module, "read", too_early)
    segments = Segments(spool.place)
    found = segments.following(1, len(call(1)))
    assert found is not None
    assert found.offset == len(call(1))
    segments.close()


def test_a_damaged_state_has_everything_that_is_left_run_again(spool: Spool) -> None:
    for number in range(3):
        spool.append(call(number))
    with spool._state.change(1.0) as position:
        position.offset = 3 * len(call(0))
    assert numbers(spool) == []
    spool.place.state.write_bytes(b"?" * 4096)
    assert numbers(spool) == [0, 1, 2]


def test_a_position_is_written_and_read(spool: Spool) -> None:
    with spool._state.change(1.0) as position:
        position.segment, position.offset, position.closed = 7, 12345, True
    assert spool.position() == Position(7, 12345, True, [])
    assert spool.place.state.stat().st_size == 4096


# What is set aside


def test_a_call_that_cant_be_unpickled_is_set_aside_and_tried_again_by_the_next(
    make: Callable[..., AskingPool], folder: Folder, capfd: pytest.CaptureFixture[str]
) -> None:
    pool = make()
    mark = folder.path / "mark"
    pool.submit("write", Picky(mark))
    assert pool.ask("echo", 1).result() == 1
    (kept,) = set_aside_files(folder.spools)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert pool.stop(SOON) == 0

    second = make()
    assert second.adopt() == 1  # in vain
    until(lambda: second.pending == 0)
    (again,) = set_aside_files(folder.spools)
    assert again != kept
    mark.touch()
    assert second.adopt() == 1
    until(lambda: second.pending == 0 and not set_aside_files(folder.spools))
    assert [what for what in folder.entries() if "Picky" in what]


def test_what_was_set_aside_a_week_ago_is_given_up(
    make: Callable[..., AskingPool], folder: Folder, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    spool.append(pack("write", arguments_of((1,), {}), time.time() - KEPT_SECONDS - 1))
    segments = Segments(spool.place)
    found = segments.at(1, 0)
    segments.close()
    assert found is not None
    assert set_aside(spool.place, found)
    assert make().adopt() == 0
    assert set_aside_files(folder.spools) == []
    assert "is given up: it is too old" in caplog.text


# When there is no room


def test_on_a_full_disk_calls_are_kept_in_memory_and_then_on_disk_again(
    folder: Folder, make: Callable[..., AskingPool], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with small_disk(tmp_path / "disk", kilobytes=400) as disk:
        root = disk / "spools"
        pool = make(folder=lambda: root, bounds=Bounds(spare_segment=20_000))
        asked = [pool.ask("hold", "one")]
        filler = fill(disk)
        asked += [pool.ask("echo", (number, "x" * 1000)) for number in range(100)]
        assert pool.spool is not None
        spare = spare_root(root) / pool.spool.name
        assert len(list(spare.glob("*.calls"))) > 1
        assert stat.S_IMODE(spare.stat().st_mode) == 0o700
        filler.unlink()
        asked += [pool.ask("echo", (number, "x" * 1000)) for number in range(100, 200)]
        folder.allow("one")
        assert [one.result()[0] for one in asked[1:]] == list(range(200))  # nothing is passed over
        assert pool.stop(SOON) == 0
        assert not spare.exists()
    texts = [record.getMessage() for record in caplog.records]
    assert [text.split(" (")[0] for text in texts] == [
        f"calls can't be written to {root / spare.name}",
        f"calls are written to {root / spare.name} again",
    ]
    assert "No space left on device" in texts[0]


def test_what_was_kept_in_memory_is_done_by_the_next_owner_too(
    run: Callable[..., subprocess.Popen[str]], make: Callable[..., AskingPool], folder: Folder
) -> None:
    (folder.path / "spools").write_text("not a folder")
    owner = run("""
pool.submit("hold", "one")
until(lambda: folder.pids("holds one"))
pool.submit("write", 1)
os.kill(pool.pids[0], signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
""")
    owner.wait(SOON)
    (folder.path / "spools").unlink()
    folder.allow("one")
    pool = make()
    assert pool.adopt() == 2
    until(lambda: done(folder) == [1])


def test_without_any_room_a_call_is_refused_and_counted(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    bounds = Bounds(max_bytes=20_000, segment_bytes=10_000, spare_bytes=20_000, spare_segment=10_000)
    pool = make(bounds=bounds)
    pool.ask("hold", "one")

    def fill_it() -> None:
        for number in range(60):
            pool.submit("write_slowly", number, "x" * 1000)

    with pytest.raises(CallRefused, match=r"no room for a call in .*; free some space there"):
        fill_it()
    assert 20 < pool.pending < 60
    assert pool.refused == 1
    folder.allow("one")
    until(lambda: pool.pending == 0)
    assert pool.ask("echo", "x" * 1000).result() == "x" * 1000


def test_where_no_spool_can_be_made_at_all_a_call_is_refused(
    make: Callable[..., AskingPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Spool, "_make_in", fail)
    with pytest.raises(CallRefused, match=r"can't make a spool: .*No space left"):
        make().submit("echo", 1)
    assert issubclass(CallRefused, PoolError)


def test_a_pool_may_be_made_in_a_folder_whose_parents_are_missing(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    root = folder.path / "a" / "b" / "spool"
    pool = make(folder=lambda: root)
    assert pool.ask("echo", 1).result() == 1
    assert {stat.S_IMODE(path.stat().st_mode) for path in (root, root.parent, root.parent.parent)} == {0o700}
    assert isinstance(pool, Pool)
