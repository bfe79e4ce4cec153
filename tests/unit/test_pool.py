from __future__ import annotations

import concurrent.futures
import contextlib
import math
import os
import signal
import sqlite3
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from tests.unit.pool_support import (
    HERE,
    METHODS,
    READY,
    SOON,
    AskingPool,
    ExitsInFactory,
    FailsInFactory,
    Folder,
    HangsInClose,
    HangsInFactory,
    Reads,
    Resident,
    Unpicklable,
    WithoutClose,
    folder,
    has_ended,
    make,
    no_descriptors_left,
    outcome,
    run,
    stop_in_time,
    until,
)

from keepline.errors import CallNotSent, ConfigError, PoolError, PoolStopped
from keepline.pool import Pool
from keepline.pool.aside import set_aside_files
from keepline.pool.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["folder", "make", "run"]

pytestmark = pytest.mark.timeout(60)


# What a pool does


@pytest.mark.parametrize("method", METHODS)
def test_one_resident_serves_200_calls_and_is_closed_at_the_stop(
    make: Callable[..., AskingPool], folder: Folder, method: str
) -> None:
    pool = make(method=method)
    futures = [pool.ask("echo", number) for number in range(200)]
    assert [future.result(SOON) for future in futures] == list(range(200))
    (pid,) = pool.pids
    assert folder.read() == [(pid, "built")]
    assert pool.stop(SOON) == 0
    assert folder.read() == [(pid, "built"), (pid, "closed")]
    assert pool.pids == []
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("method", METHODS)
def test_two_workers_work_side_by_side_each_with_a_resident(
    make: Callable[..., AskingPool], folder: Folder, method: str
) -> None:
    pool = make(method=method, workers=2)
    futures = [pool.ask("hold", name) for name in ("one", "two", "three")]
    until(lambda: len(pool.pids) == 2 and {"holds one", "holds two"} <= set(folder.entries()))
    assert "holds three" not in folder.entries()
    assert pool.pending == 3
    for name in ("one", "two", "three"):
        folder.allow(name)
    assert [future.result(SOON) for future in futures] == ["one", "two", "three"]
    until(lambda: pool.pending == 0)
    assert sorted(folder.pids("built")) == sorted(pool.pids)


def test_nothing_is_started_before_the_first_call(make: Callable[..., AskingPool]) -> None:
    this = psutil.Process()
    before = threading.active_count(), this.num_fds(), len(this.children())
    pool = make(workers=2)
    assert (threading.active_count(), this.num_fds(), len(this.children())) == before
    assert (pool.pids, pool.pending, pool.stop(0)) == ([], 0, 0)
    assert (threading.active_count(), this.num_fds(), len(this.children())) == before


def test_a_second_worker_is_started_only_when_the_first_is_busy(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    pool = make(workers=2)
    for _ in range(20):
        pool.ask("echo", None).result(SOON)
        until(lambda: pool.pending == 0)
    assert len(folder.pids("built")) == 1


def test_a_stopped_pool_leaves_no_thread_process_or_descriptor(make: Callable[..., AskingPool]) -> None:
    this = psutil.Process()
    before = threading.active_count(), this.num_fds(), len(this.children())
    pool = make(workers=2)
    pids = [pool.ask("pid") for _ in range(2)]
    os.kill(pids[0].result(SOON), signal.SIGKILL)
    pool.ask("echo", 1).result(SOON)
    pool.stop(SOON)
    assert (threading.active_count(), this.num_fds(), len(this.children())) == before


def test_a_resident_needs_no_close(make: Callable[..., AskingPool], caplog: pytest.LogCaptureFixture) -> None:
    pool = make(WithoutClose)
    assert pool.ask("echo", 1).result(SOON) == 1
    assert pool.stop(SOON) == 0
    assert caplog.records == []


def test_large_arguments_and_results_pass(make: Callable[..., AskingPool]) -> None:
    pool = make(workers=2)
    large = os.urandom(20_000_000)
    futures = [pool.ask("echo", large) for _ in range(4)]
    assert all(future.result(SOON) == large for future in futures)


def test_it_sleeps_when_idle(make: Callable[..., AskingPool]) -> None:
    pool = make()
    worker = pool.ask("pid").result(SOON)
    (manager,) = (thread for thread in threading.enumerate() if thread.name == "keepline-manager")
    statuses = [Path(f"/proc/self/task/{manager.native_id}/status"), Path(f"/proc/{worker}/status")]

    def switches() -> list[str]:
        return [line for status in statuses for line in status.read_text().splitlines() if "ctxt" in line]

    def quiet_for_a_second() -> bool:
        before = switches()
        end = time.monotonic() + 1
        while time.monotonic() < end:
            if switches() != before:
                return False
            time.sleep(0.05)
        return True

    until(quiet_for_a_second)


@pytest.mark.parametrize("settings", [{"workers": 0}, {"attempts": 0}])
def test_a_wrong_setting_is_named(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Pool(dict, **settings)  # type: ignore[arg-type]


# What can't be sent, and what fails


def test_an_unpicklable_argument_is_refused_at_once_and_not_shown(make: Callable[..., AskingPool]) -> None:
    pool = make()
    with pytest.raises(CallNotSent) as raised:
        pool.submit("echo", Unpicklable())
    assert "echo" in str(raised.value)
    assert "ValueError" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert pool.pids == []


@pytest.mark.parametrize("error", [ValueError("secret"), KeyError("secret"), SystemExit("secret")])
def test_what_a_method_raises_is_told_of_by_its_type_and_harms_nobody(
    make: Callable[..., AskingPool], folder: Folder, capfd: pytest.CaptureFixture[str], error: BaseException
) -> None:
    pool = make()
    pid = pool.ask("pid").result()
    pool.submit("fail", error)
    pool.submit("nonsense")
    assert pool.ask("pid").result() == pid


# Deaths of workers


@pytest.mark.parametrize("method", METHODS)
def test_a_call_whose_worker_is_killed_is_run_again_before_the_later_ones(
    make: Callable[..., AskingPool], folder: Folder, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    pool = make(method=method)
    held = pool.ask("hold", "one")
    later = [pool.ask("write", number) for number in range(3)]
    (first,) = until(lambda: folder.pids("holds one"))
    os.kill(first, signal.SIGKILL)
    until(lambda: len(folder.pids("holds one")) == 2)
    folder.allow("one")
    assert held.result(SOON) == "one"
    for one in later:
        one.result(SOON)
    assert folder.entries() == ["built", "holds one", "built", "holds one", "did one", "0", "1", "2"]
    assert pool.pids != [first]
    (record,) = caplog.records
    assert record.getMessage() == f"worker {first} of pool keepline ended by SIGKILL; answer() is run again"


def test_calls_of_two_workers_that_die_at_once_are_run_again_in_their_order(
    make: Callable[..., AskingPool], folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make(workers=2)
    asked = [pool.ask("hold", name) for name in ("one", "two")]
    until(lambda: {"holds one", "holds two"} <= set(folder.entries()))
    one, two = folder.pids("holds one") + folder.pids("holds two")
    go_on, attend = threading.Event(), Workers.attend
    monkeypatch.setattr(Workers, "attend", lambda *args: go_on.wait() and attend(*args))
    for pid in (two, one):
        os.kill(pid, signal.SIGKILL)
    until(lambda: has_ended(one) and has_ended(two))
    go_on.set()
    until(lambda: len(folder.pids("holds one")) == len(folder.pids("holds two")) == 2)
    for name in ("one", "two"):
        folder.allow(name)
    assert [call.result() for call in asked] == ["one", "two"]


def test_a_call_that_is_done_isnt_run_again_when_its_worker_dies(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    pool = make()
    pid = pool.ask("pid").result()
    pool.submit("write", "once")
    until(lambda: "once" in folder.entries() and pool.pending == 0)
    os.kill(pid, signal.SIGKILL)
    until(lambda: pool.pids == [])
    assert pool.ask("echo", 1).result() == 1
    assert folder.entries().count("once") == 1


def test_a_call_that_kills_its_workers_is_set_aside_and_the_pool_goes_on(
    make: Callable[..., AskingPool], folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(attempts=3)
    pool.submit("exit", 7)
    assert pool.ask("echo", "later").result() == "later"
    assert folder.entries().count("exits") == 3
    *again, last = (record.getMessage() for record in caplog.records)
    assert [text.partition("; ")[2] for text in again] == ["exit() is run again"] * 2
    assert "ended by exit code 7; exit() is set aside" in last
    assert len(set_aside_files(folder.spools)) == 1


def test_an_idle_worker_that_dies_is_replaced_when_there_is_a_call(make: Callable[..., AskingPool]) -> None:
    pool = make()
    first = pool.ask("pid").result(SOON)
    os.kill(first, signal.SIGKILL)
    until(lambda: pool.pids == [])
    assert pool.ask("pid").result(SOON) != first


def test_a_worker_that_closes_its_socket_is_replaced(make: Callable[..., AskingPool], folder: Folder) -> None:
    pool = make()
    first = pool.ask("pid").result()
    pool.submit("close_its_socket")
    assert pool.ask("echo", 1).result() == 1
    assert has_ended(first)
    assert len(set_aside_files(folder.spools)) == 1


def test_a_death_is_seen_even_if_a_child_of_the_worker_lives_on(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    pool = make(attempts=1)
    try:
        pool.submit("leave_a_child")
        assert pool.ask("echo", 1).result() == 1
        assert pool.stop(SOON) == 0
    finally:
        for child in folder.pids("child"):
            os.kill(child, signal.SIGKILL)


def test_workers_are_replaced_even_if_others_reap_them(
    make: Callable[..., AskingPool], folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        pool = make()
        first = pool.ask("pid").result(SOON)
        os.kill(first, signal.SIGKILL)
        until(lambda: pool.pids == [])
        assert pool.ask("pid").result(SOON) != first
        assert pool.stop(SOON) == 0
        assert "someone else reaped it" in caplog.text
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("method", METHODS)
def test_without_pidfds_a_dead_worker_is_replaced_and_a_stop_is_bounded_all_the_same(
    make: Callable[..., AskingPool], folder: Folder, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    pool = make(method=method)
    held = pool.ask("hold", "one")
    (first,) = until(lambda: folder.pids("holds one"))
    os.kill(first, signal.SIGKILL)
    folder.allow("one")
    assert held.result(SOON) == "one"
    pool.submit("hang")
    (second,) = until(lambda: folder.pids("hangs"))
    assert stop_in_time(pool) == 1
    assert pool.pending == 1
    assert not psutil.pid_exists(second)


@pytest.mark.parametrize("method", METHODS)
def test_while_the_factory_fails_the_calls_wait(
    make: Callable[..., AskingPool], folder: Folder, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    pool = make(FailsInFactory, method)
    asked = [pool.ask("echo", number) for number in range(5)]
    until(lambda: folder.entries().count("built") == 3)
    assert pool.pending == 5
    folder.allow("start")
    assert [call.result() for call in asked] == list(range(5))
    first, second, *_ = (record.getMessage() for record in caplog.records)
    text = (
        "pool keepline can't start a worker: LookupError: there is no such thing; its calls wait, another is "
    )
    assert [first, second] == [text + "tried in 0.1 s", text + "tried in 0.2 s"]


def test_a_factory_that_kills_its_worker_starts_no_storm(
    make: Callable[..., AskingPool], folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(ExitsInFactory)
    pool.submit("echo", 1)
    until(lambda: len(caplog.records) == 4)
    assert "ended by exit code 3 before it was ready; its calls wait" in caplog.text
    pauses = [float(record.getMessage().split()[-2]) for record in caplog.records]
    assert pauses == [0.1, 0.2, 0.4, 0.8]
    assert len(folder.entries()) <= 4
    assert stop_in_time(pool) == 1


def test_when_the_factory_fails_the_calls_are_left_to_the_workers_there_are(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    folder.allow("start")
    pool = make(FailsInFactory, workers=2)
    held = pool.ask("hold", "one")
    until(lambda: "holds one" in folder.entries())
    (folder.path / "start").unlink()
    later = [pool.ask("echo", number) for number in range(3)]
    until(lambda: folder.entries().count("built") == 2 and len(pool.pids) == 1)
    folder.allow("one")
    assert held.result() == "one"
    assert [call.result() for call in later] == [0, 1, 2]


def test_a_factory_that_cant_be_sent_is_told_of(
    make: Callable[..., AskingPool], caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(lambda folder: None, "spawn")
    pool.submit("echo")
    until(lambda: "can't start a worker" in caplog.text)
    assert "lambda" in caplog.text
    assert stop_in_time(pool) == 1


def test_a_worker_that_isnt_ready_in_time_is_replaced(
    make: Callable[..., AskingPool], folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(HangsInFactory, start_timeout=READY)
    assert pool.ask("echo", 1).result(SOON) == 1
    assert folder.entries() == ["built"] * 2
    (record,) = caplog.records
    assert "can't start a worker: it wasn't ready in 3 s; its calls wait" in record.getMessage()


def test_a_manager_that_fails_is_replaced_and_what_its_workers_had_is_run_again(
    make: Callable[..., AskingPool],
    folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = make()
    held = pool.ask("hold", "one")
    (pid,) = until(lambda: folder.pids("holds one"))
    with monkeypatch.context() as patch:
        patch.setattr(Workers, "attend", lambda *_: 1 / 0)
        os.kill(pid, signal.SIGKILL)
        until(lambda: "the manager of pool keepline failed: ZeroDivisionError" in caplog.text)
        until(lambda: pool.pids == [])
    folder.allow("one")
    assert pool.ask("echo", 1).result() == 1
    assert held.result() == "one"


def test_descriptors_run_out_and_come_back(make: Callable[..., AskingPool]) -> None:
    pool = make()
    pool.ask("echo", 1).result()
    os.kill(pool.pids[0], signal.SIGKILL)
    until(lambda: pool.pids == [])
    with no_descriptors_left():
        accepted = pool.ask("echo", 2)  # its file is open
        with pytest.raises(PoolError, match="Too many open files"):
            make().submit("echo", 2)
    assert accepted.result() == 2
    assert pool.ask("echo", 3).result() == 3


# In which thread workers are forked


@pytest.fixture
def database(folder: Folder) -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """A database with three rows; what this gives is in the middle of a change of it while it is entered."""
    connection = sqlite3.connect(folder.path / "db", isolation_level=None)
    connection.execute("CREATE TABLE things (name)")
    connection.execute("INSERT INTO things VALUES (1), (2), (3)")

    @contextlib.contextmanager
    def change() -> Iterator[None]:
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("UPDATE things SET name = name + 1")
        yield
        connection.execute("COMMIT")

    with contextlib.closing(connection):
        yield change


@pytest.fixture
def here() -> Iterator[None]:
    HERE.name = "test"
    yield
    del HERE.name


def test_the_owner_may_change_a_database_at_all_times_but_in_submit(
    make: Callable[..., AskingPool], database: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    for _ in range(5):
        pool = make(Reads, workers=2)
        futures = []
        for _ in range(3):
            futures.append(pool.ask("rows"))
            with database():
                time.sleep(0.1)
        assert [future.result(SOON) for future in futures] == [3] * 3


def test_the_owner_may_change_a_database_while_a_worker_is_replaced(
    make: Callable[..., AskingPool],
    folder: Folder,
    database: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    pool = make(Reads)
    future = pool.ask("hold_then_read", "one")
    (first,) = until(lambda: folder.pids("holds one"))
    with database():
        os.kill(first, signal.SIGKILL)
        until(lambda: len(folder.pids("holds one")) == 2)
    folder.allow("one")
    assert future.result(SOON) == 3


@pytest.mark.usefixtures("here")
def test_workers_are_forked_in_the_thread_that_submits(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    def submit(name: str) -> concurrent.futures.Future[Any]:
        HERE.name = name
        return pool.ask("forked_by")

    pool = make(workers=2)
    first, by = pool.ask("forked_by").result(SOON)
    assert by == "test"
    held = pool.ask("hold", "one")
    with concurrent.futures.ThreadPoolExecutor() as threads:
        assert threads.submit(submit, "other").result(SOON).result(SOON)[1] == "other"
        folder.allow("one")
        held.result(SOON)
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: pool.pids == [])
        assert threads.submit(submit, "third").result(SOON).result(SOON)[1] == "third"
    assert not psutil.pid_exists(first)


@pytest.mark.usefixtures("here")
def test_a_dead_workers_call_is_run_again_by_a_fresh_one_if_no_one_submits(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    def children() -> list[int]:
        return [child.pid for child in psutil.Process().children(recursive=True) if child.pid not in others]

    others: list[int] = []
    others = children()
    pool = make()
    held, later = pool.ask("hold", "one"), pool.ask("forked_by")
    (first,) = until(lambda: folder.pids("holds one"))
    os.kill(first, signal.SIGKILL)
    folder.allow("one")
    assert held.result(SOON) == "one"
    second, by = later.result(SOON)
    assert by == "nobody"
    assert children() == [second]
    assert pool.stop(SOON) == 0
    assert children() == []
    assert folder.pids("closed") == [second]


def test_a_fresh_worker_that_is_killed_too_is_replaced(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    pool = make(attempts=4)
    held = pool.ask("hold", "one")
    for number in (1, 2, 3):
        until(lambda number=number: len(folder.pids("holds one")) == number)
        os.kill(folder.pids("holds one")[-1], signal.SIGKILL)
    folder.allow("one")
    assert held.result(SOON) == "one"
    assert len(folder.pids("built")) == 4


def test_a_fresh_worker_is_stopped_in_time_while_it_starts(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    for delay in (0, 0.02, 0.1, 0.3):
        pool = make()
        hanging = pool.ask("hang")
        (first,) = until(lambda pool=pool: [pid for pid in folder.pids("hangs") if pid in pool.pids])
        os.kill(first, signal.SIGKILL)
        until(lambda pool=pool, first=first: pool.pids not in ([], [first]))
        (fresh,) = pool.pids
        time.sleep(delay)
        assert stop_in_time(pool) == 1
        assert not hanging.done()
        assert not psutil.pid_exists(fresh)


def test_a_signal_to_the_whole_group_ends_no_fresh_worker_that_starts(
    run: Callable[..., subprocess.Popen[str]], folder: Folder
) -> None:
    program = run("""
signal.signal(signal.SIGTERM, lambda *_: None)
held = pool.ask("hold", "one")
worker, = until(lambda: folder.pids("holds one"))
os.kill(worker, signal.SIGKILL)
until(lambda: pool.pids not in ([], [worker]))
fresh, = pool.pids
while len(folder.pids("holds one")) < 2:
    os.killpg(0, signal.SIGTERM)
    time.sleep(0.001)
folder.allow("one")
assert held.result(20) == "one"
assert pool.ask("pid").result(20) == fresh
assert pool.stop(20) == 0
""")
    outcome(program)


@pytest.mark.parametrize("pidfds", [True, False])
def test_when_the_owner_is_killed_a_fresh_worker_finishes_its_call_and_ends(
    run: Callable[..., subprocess.Popen[str]], folder: Folder, pidfds: bool
) -> None:
    script = """
pool.submit("hold", "one")
worker, = until(lambda: folder.pids("holds one"))
os.kill(worker, signal.SIGKILL)
signal.pause()
"""
    owner = run(script if pidfds else "del os.pidfd_open" + script)
    until(lambda: len(folder.pids("holds one")) == 2)
    owner.kill()
    owner.wait(SOON)
    folder.allow("one")
    fresh = folder.pids("holds one")[1]
    until(lambda: has_ended(fresh))
    assert folder.entries()[-2:] == ["did one", "closed"]


def test_a_forked_child_leaves_a_fresh_worker_alone(
    run: Callable[..., subprocess.Popen[str]], folder: Folder
) -> None:
    program = run(
        FORK
        + """
held = pool.ask("hold", "one")
worker, = until(lambda: folder.pids("holds one"))
os.kill(worker, signal.SIGKILL)
until(lambda: len(folder.pids("holds one")) == 2)
fresh, = pool.pids
def work():
    assert pool.pids == []
    own = pool.ask("pid").result(20)
    assert pool.pids == [own] != [fresh]
in_a_child(work)
in_a_child(lambda: None)
folder.allow("one")
assert held.result(20) == "one"
assert pool.ask("pid").result(20) == fresh
assert pool.stop(20) == 0
"""
    )
    outcome(program)


@pytest.mark.usefixtures("here")
def test_if_only_a_fork_has_the_factory_a_dead_workers_call_waits_for_the_next_submit(
    make: Callable[..., AskingPool], folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(lambda folder: Resident(folder))
    for name in ("one", "two"):
        held = pool.ask("hold", name)
        (first,) = until(lambda name=name: folder.pids(f"holds {name}"))
        os.kill(first, signal.SIGKILL)
        until(lambda: pool.pids == [])
        time.sleep(0.3)
        assert (pool.pids, pool.pending) == ([], 1)
        folder.allow(name)
        assert pool.ask("forked_by").result(SOON)[1] == "test"
        assert held.result(0) == name
        until(lambda: pool.pending == 0)
    texts = [record.getMessage() for record in caplog.records if "without a fork" in record.getMessage()]
    assert len(texts) == 1
    assert "lambda" in texts[0]
    assert texts[0].endswith("its calls wait for the next submit()")


def test_a_pool_whose_call_waits_for_a_fork_is_stopped_in_time(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    pool = make(lambda folder: Resident(folder))
    hanging = pool.ask("hang")
    (first,) = until(lambda: folder.pids("hangs"))
    os.kill(first, signal.SIGKILL)
    until(lambda: pool.pids == [])
    assert stop_in_time(pool) == 1
    assert not hanging.done()


def test_a_factory_of_the_main_module_is_replaced_by_the_next_submit(
    run: Callable[..., subprocess.Popen[str]], folder: Folder
) -> None:
    program = run("""
def build():
    return Resident(folder)
pool = AskingPool(build, folder, context=multiprocessing.get_context("fork"))
held = pool.ask("hold", "one")
worker, = until(lambda: folder.pids("holds one"))
os.kill(worker, signal.SIGKILL)
until(lambda: not pool._manager.workers._replaceable and pool.pids == [])
folder.allow("one")
assert pool.ask("echo", 1).result(20) == 1
assert held.result(20) == "one"
assert pool.stop(20) == 0
""")
    outcome(program)
    assert len(folder.pids("built")) == 2


@pytest.mark.parametrize("workers", [1, 3])
def test_there_are_never_more_workers_than_asked_for(
    make: Callable[..., AskingPool], folder: Folder, workers: int
) -> None:
    this = psutil.Process()
    before = {child.pid for child in this.children()}
    pool = make(workers=workers, attempts=1000)
    ended = threading.Event()
    most = 0

    def submit() -> None:
        while not ended.is_set():
            pool.ask("echo", 1).result(SOON)

    def count() -> int:
        living = [pid for child in this.children() if (pid := child.pid) not in before]
        return sum(not has_ended(pid) for pid in living)

    with concurrent.futures.ThreadPoolExecutor() as threads:
        submitting = [threads.submit(submit) for _ in range(4)]
        end = time.monotonic() + 4
        while time.monotonic() < end:
            # One that isn't built yet would count as a start that failed, after which there is a pause.
            for pid in [pid for pid in pool.pids if pid in folder.pids("built")][:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for _ in range(5):
                most = max(most, count())
                time.sleep(0.01)
        ended.set()
        for future in submitting:
            future.result(SOON)
    assert most == workers
    assert pool.stop(SOON) == 0


def test_a_fork_that_fails_is_no_error_for_who_submits(
    make: Callable[..., AskingPool],
    folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    pool = make(workers=2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", fail)
        held = pool.ask("hold", "one")  # by a fresh one
        until(lambda: folder.pids("holds one"))
        later = pool.ask("echo", 2)
    assert "can't fork a worker: BlockingIOError" in caplog.text
    assert later.result() == 2
    folder.allow("one")
    assert held.result() == "one"


def test_a_pool_without_a_thread_takes_no_calls_and_is_stopped_all_the_same(
    make: Callable[..., AskingPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    this = psutil.Process()
    before = this.num_fds(), len(this.children())
    pool = make()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(PoolError, match="can't start new thread"):
            pool.submit("echo", 1)
    assert pool.stop(SOON) == 0
    assert (this.num_fds(), len(this.children())) == before
    other = make()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(PoolError, match="can't start new thread"):
            other.submit("echo", 1)
    assert other.ask("echo", 2).result() == 2


# Python's own code isn't made for it: a thread may die before it runs, with a complaint.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_handler_that_raises_in_the_middle_of_submits_does_no_harm(
    run: Callable[..., subprocess.Popen[str]],
) -> None:
    # In a process of its own: what measures coverage here has a lock that such a handler can strand.
    program = run("""
class InterruptError(Exception):
    pass

def interrupt(*_):
    raise InterruptError

signal.signal(signal.SIGALRM, interrupt)
for number in range(60):
    pool = AskingPool(functools.partial(Resident, folder), folder, context=context)
    signal.setitimer(signal.ITIMER_REAL, 0.0002 * (1 + number % 20))
    with contextlib.suppress(InterruptError):
        pool.submit("echo", 0)
        time.sleep(1)
    assert pool.ask("echo", number).result(20) == number
    assert len(pool.pids) == 1
    assert pool.stop(20) == 0
print("done")
""")
    # An exception in the middle of Thread.start() has the interpreter complain of that thread.
    printed, _ = program.communicate(timeout=SOON)
    assert (program.returncode, printed) == (0, "done\n")


# Signals


def test_a_signal_meant_for_the_owner_loses_no_call(make: Callable[..., AskingPool], folder: Folder) -> None:
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
    before = {number: signal.signal(number, lambda *_: folder.write("handler")) for number in numbers}
    try:
        pool = make()
        future = pool.ask("hold", "one")
        (pid,) = until(lambda: folder.pids("holds one"))
        for number in numbers:
            os.kill(pid, number)
        folder.allow("one")
        assert future.result(SOON) == "one"
        assert pool.pids == [pid]
        assert "handler" not in folder.entries()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_programs_that_a_resident_starts_can_be_terminated(make: Callable[..., AskingPool]) -> None:
    assert make().ask("terminate_a_program").result(SOON) == -signal.SIGTERM


# Stopping


def test_a_stop_lets_the_queue_drain(make: Callable[..., AskingPool], folder: Folder) -> None:
    pool = make(workers=2)
    for number in range(50):
        pool.submit("write", number)
    assert pool.stop(math.inf) == 0
    assert sorted(folder.entries()) == sorted(
        ["built", "closed"] * len(folder.pids("built")) + [str(n) for n in range(50)]
    )


def test_a_stopped_pool_takes_no_calls(make: Callable[..., AskingPool]) -> None:
    unused = make()
    unused.stop(0)
    used = make()
    used.ask("echo", 1).result(SOON)
    used.stop(SOON)
    for pool in (unused, used):
        with pytest.raises(PoolStopped):
            pool.submit("echo", 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("is_suspended", [False, True])
def test_a_stop_kills_a_worker_that_hangs_in_a_method(
    make: Callable[..., AskingPool], folder: Folder, method: str, is_suspended: bool
) -> None:
    pool = make(method=method)
    for _ in range(3):
        pool.submit("hang")
    (pid,) = until(lambda: folder.pids("hangs"))
    if is_suspended:
        os.kill(pid, signal.SIGSTOP)
    assert stop_in_time(pool) == 3
    assert not psutil.pid_exists(pid)


def test_a_stop_kills_an_idle_worker_that_is_suspended(make: Callable[..., AskingPool]) -> None:
    pool = make()
    pid = pool.ask("pid").result(SOON)
    os.kill(pid, signal.SIGSTOP)
    assert stop_in_time(pool) == 0
    assert not psutil.pid_exists(pid)


def test_a_stop_kills_a_worker_that_hangs_in_close(make: Callable[..., AskingPool], folder: Folder) -> None:
    pool = make(HangsInClose)
    pid = pool.ask("pid").result(SOON)
    assert stop_in_time(pool) == 0
    assert folder.pids("hangs in close") == [pid]
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("is_suspended", [False, True])
def test_a_stop_kills_a_worker_that_hangs_in_the_factory(
    make: Callable[..., AskingPool], folder: Folder, is_suspended: bool
) -> None:
    pool = make(HangsInFactory)
    pool.submit("echo", 1)
    (pid,) = until(lambda: folder.pids("built"))
    if is_suspended:
        os.kill(pid, signal.SIGSTOP)
    assert stop_in_time(pool) == 1
    assert not psutil.pid_exists(pid)


def test_a_suspended_worker_holds_up_no_one(make: Callable[..., AskingPool], folder: Folder) -> None:
    pool = make(workers=2)
    pid = pool.ask("pid").result(SOON)
    os.kill(pid, signal.SIGSTOP)
    for number in range(500):  # more than a socket has room for
        pool.submit("echo", number)
    assert pool.ask("hold", "one").done() is False
    folder.allow("one")
    assert pool.ask("echo", 1).result() == 1
    assert stop_in_time(pool) == 0


def test_a_call_in_hand_at_the_timeout_may_still_finish(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    pool = make()
    held = pool.ask("hold", "one")
    until(lambda: "holds one" in folder.entries())
    waiting = 1
    pool.submit("write", "two")
    with concurrent.futures.ThreadPoolExecutor() as threads:
        left = threads.submit(pool.stop, 0)
        with contextlib.suppress(PoolStopped):
            while True:
                pool.submit("echo", 1)
                waiting += 1
        until(lambda: pool._spool is None or pool._spool.position().closed)
        folder.allow("one")
        assert held.result() == "one"
        assert left.result(SOON) == waiting
    assert folder.entries() == ["built", "holds one", "did one", "closed"]


def test_many_threads_may_stop_and_get_the_same_answer(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    pool = make()
    pool.submit("hang")
    until(lambda: "hangs" in folder.entries())
    with concurrent.futures.ThreadPoolExecutor(5) as threads:
        assert list(threads.map(pool.stop, [0.1] * 5)) == [1] * 5
    assert pool.stop(SOON) == 1


def test_a_signal_handler_may_stop_in_the_middle_of_submits(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    accepted = 0
    before = signal.signal(signal.SIGUSR1, lambda *_: pool.stop(SOON))
    try:
        for _ in range(10):
            pool = make()
            threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            with contextlib.suppress(PoolStopped):
                while True:
                    pool.submit("write", "call")
                    accepted += 1
            accepted -= pool.stop(0)  # what it was in the middle of may be left
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert accepted == folder.entries().count("call")


# The owner's end

SIBLING = "pool.ask('echo', 1).result()\nif not os.fork(): signal.pause()\n"


@pytest.mark.parametrize(
    ("call", "before_the_end"),
    [
        ("pool.submit('hang'); until(lambda: 'hangs' in folder.entries())", ""),
        ("pool.ask('pid').result()", "os.kill(pool.pids[0], signal.SIGSTOP)"),
        (
            "pool.submit('hang'); until(lambda: 'hangs' in folder.entries())",
            "os.kill(pool.pids[0], signal.SIGSTOP)",
        ),
        ("pool = AskingPool(functools.partial(HangsInClose, folder), folder); pool.ask('pid').result()", ""),
    ],
    ids=["method hangs", "suspended idle", "suspended in method", "close hangs"],
)
def test_the_interpreter_ends_even_if_nobody_stopped(
    run: Callable[..., subprocess.Popen[str]], folder: Folder, call: str, before_the_end: str
) -> None:
    outcome(run(f"{call}\n{before_the_end}"))
    assert len(folder.pids("built")) == 1
    assert all(has_ended(pid) for pid in folder.pids("built"))


@pytest.mark.parametrize("method", METHODS)
def test_at_the_interpreters_end_the_calls_there_are_go_on(
    run: Callable[..., subprocess.Popen[str]], folder: Folder, method: str
) -> None:
    outcome(run("for number in range(20): pool.submit('write', number)\nuntil(folder.read)", method))
    assert folder.entries() == ["built", *(str(number) for number in range(20)), "closed"]


def test_a_child_of_multiprocessing_ends_even_if_nobody_stopped(
    run: Callable[..., subprocess.Popen[str]], folder: Folder
) -> None:
    outcome(
        run("""
def use():
    pool.submit("hang")
    until(lambda: "hangs" in folder.entries())
child = multiprocessing.get_context("fork").Process(target=use)
child.start()
child.join()
""")
    )
    assert len(folder.pids("hangs")) == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("with_sibling", [False, True])
def test_when_the_owner_is_killed_an_idle_worker_closes_its_resident_and_ends(
    run: Callable[..., subprocess.Popen[str]], folder: Folder, method: str, with_sibling: bool
) -> None:
    owner = run(
        SIBLING * with_sibling + "pool.ask('echo', 1).result(); print(flush=True); signal.pause()", method
    )
    assert owner.stdout is not None
    owner.stdout.readline()
    owner.kill()
    (worker,) = until(lambda: folder.pids("closed"))
    until(lambda: has_ended(worker))


def test_without_pidfds_too_a_worker_ends_when_the_owner_is_killed(
    run: Callable[..., subprocess.Popen[str]], folder: Folder
) -> None:
    owner = run("del os.pidfd_open; pool.ask('echo', 1).result(); print(flush=True); signal.pause()")
    assert owner.stdout is not None
    owner.stdout.readline()
    owner.kill()
    (worker,) = until(lambda: folder.pids("closed"))
    until(lambda: has_ended(worker))


@pytest.mark.parametrize("method", METHODS)
def test_when_the_owner_is_killed_a_worker_finishes_its_call_first(
    run: Callable[..., subprocess.Popen[str]], folder: Folder, method: str
) -> None:
    owner = run("pool.submit('hold', 'one'); signal.pause()", method)
    (worker,) = until(lambda: folder.pids("holds one"))
    owner.kill()
    owner.wait(SOON)
    folder.allow("one")
    until(lambda: has_ended(worker))
    assert folder.entries() == ["built", "holds one", "did one", "closed"]


def test_a_sigterm_to_the_whole_group_loses_no_call(
    run: Callable[..., subprocess.Popen[str]], folder: Folder
) -> None:
    owner = run("""
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
pool.submit("hold", "one")
for number in range(20):
    pool.submit("write", number)
try:
    print("submitted", flush=True)
    signal.pause()
finally:
    print(pool.stop(20))
""")
    until(lambda: "holds one" in folder.entries())
    assert owner.stdout is not None
    assert owner.stdout.readline() == "submitted\n"
    os.killpg(owner.pid, signal.SIGTERM)
    folder.allow("one")
    assert outcome(owner) == "0"
    assert folder.entries() == ["built", "holds one", "did one", *(str(n) for n in range(20)), "closed"]


# Forked children of the owner

FORK = """
def in_a_child(work):
    child = os.fork()
    if not child:
        work()
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_forked_child_has_a_pool_of_its_own_and_leaves_the_parents_alone(
    run: Callable[..., subprocess.Popen[str]], folder: Folder, method: str
) -> None:
    program = run(
        FORK
        + """
worker = pool.ask("pid").result()
held = pool.ask("hold", "one")
def work():
    assert (pool.pids, pool.pending) == ([], 0)
    own = pool.ask("pid").result(20)
    assert own != worker and pool.pids == [own]
    assert pool.stop(20) == 0
    assert has_ended(own)
in_a_child(work)
in_a_child(lambda: pool.ask("pid").result(20))  # ends without a stop
in_a_child(lambda: pool.stop(0))
in_a_child(lambda: None)
folder.allow("one")
assert held.result(20) == "one"
assert pool.ask("pid").result(20) == worker
assert pool.stop(20) == 0
""",
        method,
    )
    outcome(program)
    assert len(folder.pids("built")) == 3
    assert sorted(folder.pids("built")) == sorted(folder.pids("closed"))


def test_a_child_forked_while_other_threads_submit_can_submit(
    run: Callable[..., subprocess.Popen[str]], folder: Folder
) -> None:
    outcome(
        run(
            FORK
            + """
ended = threading.Event()
def submit():
    while not ended.is_set():
        pool.ask("echo", 1).result()
threads = [threading.Thread(target=submit) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(20):
    in_a_child(lambda: (pool.ask("echo", 2).result(20), pool.stop(20)))
ended.set()
for thread in threads:
    thread.join()
assert pool.stop(20) == 0
"""
        )
    )
