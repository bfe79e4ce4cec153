from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import math
import multiprocessing
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from keepline.errors import CallNotSent, ConfigError, PoolError, PoolStopped, WorkerCrashed
from keepline.pool import Pool
from keepline.pool.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.timeout(60)

SOON = 20  # seconds: a bound for what takes milliseconds, or with spawn half a second
METHODS = ["fork", "forkserver", "spawn"]
STOP_MARGIN = 1.5  # seconds: stop() promises one, the rest is for a busy machine
READY = 3  # seconds until a worker with an interpreter of its own is ready, at most

HERE = threading.local()  # what a forked worker has from the thread that forked it


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + SOON
    while not (result := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
    return result


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def submit_until_refused(pool: Pool) -> list[concurrent.futures.Future[Any]]:
    futures = []
    with contextlib.suppress(PoolStopped):
        while True:
            futures.append(pool.submit("echo", 1))
    return futures


def stop_in_time(pool: Pool) -> int:
    started = time.monotonic()
    given_up = pool.stop(0.2)
    assert time.monotonic() - started < 0.2 + STOP_MARGIN
    return given_up


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Folder:
    """Where residents write down what they do, and wait to be let go on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, what: object) -> None:
        with (self.path / "diary").open("a") as diary:
            diary.write(f"{os.getpid()} {what}\n")

    def read(self) -> list[tuple[int, str]]:
        if not (self.path / "diary").exists():
            return []
        lines = (line.split(" ", 1) for line in (self.path / "diary").read_text().splitlines())
        return [(int(pid), what) for pid, what in lines]

    def entries(self) -> list[str]:
        return [what for _, what in self.read()]

    def pids(self, what: str) -> list[int]:
        return [pid for pid, entry in self.read() if entry == what]

    def allow(self, name: str) -> None:
        (self.path / name).touch()

    def allowed(self, name: str) -> bool:
        return (self.path / name).exists()


class Resident:
    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        folder.write("built")

    def close(self) -> None:
        self.folder.write("closed")

    def echo(self, value: object) -> object:
        return value

    def pid(self) -> int:
        return os.getpid()

    def forked_by(self) -> tuple[int, str]:
        return os.getpid(), getattr(HERE, "name", "nobody")

    def write(self, what: object) -> None:
        self.folder.write(what)

    def hold(self, name: str) -> str:
        """Wait until the test allows to go on."""
        self.folder.write(f"holds {name}")
        until(lambda: self.folder.allowed(name))
        self.folder.write(f"did {name}")
        return name

    def hang(self) -> None:
        self.folder.write("hangs")
        threading.Event().wait()

    def exit(self, code: int) -> None:
        self.folder.write("exits")
        os._exit(code)

    def exit_after_the_answer(self, name: str) -> str:
        def waits_for_a_call() -> bool:
            frame = sys._current_frames()[main]
            while frame is not None and frame.f_code.co_name != "calls":
                frame = frame.f_back
            return frame is not None

        def exit_then() -> None:
            until(waits_for_a_call)
            os._exit(0)

        self.hold(name)
        main = threading.get_ident()
        threading.Thread(target=exit_then, daemon=True).start()
        return "answer"

    def leave_a_child(self) -> None:
        """Die, and leave a child that holds all descriptors of the worker."""
        parent = os.getpid()
        if os.fork():
            signal.pause()
        self.folder.write("child")
        os.kill(parent, signal.SIGKILL)
        signal.pause()

    def close_its_socket(self) -> None:
        os.closerange(3, 256)
        threading.Event().wait()

    def fail(self, error: BaseException) -> None:
        raise error

    def fail_privately(self) -> None:
        class PrivateError(Exception):
            pass

        raise PrivateError("secret")

    def fail_pickily(self) -> None:
        raise PickyError("one", "two")

    def make_function(self) -> object:
        return lambda: None

    def terminate_a_program(self) -> int:
        program = subprocess.Popen(
            [sys.executable, "-c", "import signal; print(flush=True); signal.pause()"], stdout=subprocess.PIPE
        )
        with program:
            assert program.stdout is not None
            program.stdout.readline()
            program.terminate()
        return program.returncode


class Reads(Resident):
    """Opens the owner's database by itself, as Airflow's sessions do in a worker."""

    def rows(self) -> int:
        with contextlib.closing(sqlite3.connect(self.folder.path / "db", timeout=2)) as database:
            (count,) = database.execute("SELECT count(*) FROM things").fetchone()
        return int(count)

    def hold_then_read(self, name: str) -> int:
        self.hold(name)
        return self.rows()


class HangsInClose(Resident):
    def close(self) -> None:
        self.folder.write("hangs in close")
        threading.Event().wait()


class HangsInFactory(Resident):
    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        if not folder.allowed("start"):
            folder.allow("start")  # the next one may
            threading.Event().wait()


class FailsInFactory(Resident):
    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        if not folder.allowed("start"):
            raise LookupError("there is no such thing")


class ExitsInFactory(Resident):
    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        os._exit(3)


class WithoutClose:
    def __init__(self, folder: Folder) -> None:
        folder.write("built")

    def echo(self, value: object) -> object:
        return value


class PickyError(Exception):
    """It can be pickled, but not unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


class Unpicklable:
    def __reduce__(self) -> str:
        raise ValueError("secret")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path)
    yield folder
    left = [pid for pid in folder.pids("built") if not has_ended(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "workers were left behind"


@pytest.fixture
def make(folder: Folder) -> Iterator[Callable[..., Pool]]:
    pools = []

    def make(resident: Any = Resident, method: str = "fork", **settings: Any) -> Pool:
        context = multiprocessing.get_context(method)
        factory = functools.partial(resident, folder)
        pools.append(Pool(factory, context=context, **settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.stop(0)


@pytest.fixture
def hold_up(folder: Folder) -> Iterator[Callable[[Pool], threading.Event]]:
    """Let a pool's manager see nothing more, until the event that this gives is set."""
    events = []

    def hold_up(pool: Pool) -> threading.Event:
        here, go_on = threading.Event(), threading.Event()
        events.append(go_on)
        future = pool.submit("hold", "up")
        future.add_done_callback(lambda _: (here.set(), go_on.wait()))
        folder.allow("up")
        assert here.wait(SOON)
        return go_on

    yield hold_up
    for event in events:
        event.set()


@pytest.fixture
def run(folder: Folder) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Run a script in a process of its own; it has `folder` and a pool."""
    programs = []

    def run(script: str, method: str = "fork") -> subprocess.Popen[str]:
        head = f"""
import contextlib, functools, logging, multiprocessing, os, signal, sys, threading, time, warnings
from pathlib import Path
from keepline.errors import PoolStopped
from keepline.pool import Pool
from test_pool import Folder, HangsInClose, Resident, has_ended, until

logging.disable()
warnings.filterwarnings("ignore", "This process", DeprecationWarning, "__main__")  # a script may fork
folder = Folder(Path({str(folder.path)!r}))
pool = Pool(functools.partial(Resident, folder), context=multiprocessing.get_context({method!r}))
"""
        program = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", head + script],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        programs.append(program)
        return program

    yield run
    for program in programs:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.communicate()


def outcome(program: subprocess.Popen[str]) -> str:
    """Wait for a script; give what it printed, and insist that it ended well."""
    out, err = program.communicate(timeout=SOON)
    assert (program.returncode, err) == (0, "")
    return out.strip()


# What a pool does


@pytest.mark.parametrize("method", METHODS)
def test_one_resident_serves_200_calls_and_is_closed_at_the_stop(
    make: Callable[..., Pool], folder: Folder, method: str
) -> None:
    pool = make(method=method)
    futures = [pool.submit("echo", number) for number in range(200)]
    assert [future.result(SOON) for future in futures] == list(range(200))
    (pid,) = pool.pids
    assert folder.read() == [(pid, "built")]
    assert pool.stop(SOON) == 0
    assert folder.read() == [(pid, "built"), (pid, "closed")]
    assert pool.pids == []
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("method", METHODS)
def test_two_workers_work_side_by_side_each_with_a_resident(
    make: Callable[..., Pool], folder: Folder, method: str
) -> None:
    pool = make(method=method, workers=2)
    futures = [pool.submit("hold", name) for name in ("one", "two", "three")]
    until(lambda: len(pool.pids) == 2 and {"holds one", "holds two"} <= set(folder.entries()))
    assert "holds three" not in folder.entries()
    assert pool.pending == 3
    for name in ("one", "two", "three"):
        folder.allow(name)
    assert [future.result(SOON) for future in futures] == ["one", "two", "three"]
    assert pool.pending == 0
    assert sorted(folder.pids("built")) == sorted(pool.pids)


def test_nothing_is_started_before_the_first_call(make: Callable[..., Pool]) -> None:
    this = psutil.Process()
    before = threading.active_count(), this.num_fds(), len(this.children())
    pool = make(workers=2)
    assert (threading.active_count(), this.num_fds(), len(this.children())) == before
    assert (pool.pids, pool.pending, pool.stop(0)) == ([], 0, 0)
    assert (threading.active_count(), this.num_fds(), len(this.children())) == before


def test_a_second_worker_is_started_only_when_the_first_is_busy(
    make: Callable[..., Pool], folder: Folder
) -> None:
    pool = make(workers=2)
    for _ in range(20):
        pool.submit("echo", None).result(SOON)
    assert len(folder.pids("built")) == 1


def test_a_stopped_pool_leaves_no_thread_process_or_descriptor(make: Callable[..., Pool]) -> None:
    this = psutil.Process()
    before = threading.active_count(), this.num_fds(), len(this.children())
    pool = make(workers=2)
    pids = [pool.submit("pid") for _ in range(2)]
    os.kill(pids[0].result(SOON), signal.SIGKILL)
    pool.submit("echo", 1).result(SOON)
    pool.stop(SOON)
    assert (threading.active_count(), this.num_fds(), len(this.children())) == before


def test_a_resident_needs_no_close(make: Callable[..., Pool], caplog: pytest.LogCaptureFixture) -> None:
    pool = make(WithoutClose)
    assert pool.submit("echo", 1).result(SOON) == 1
    assert pool.stop(SOON) == 0
    assert caplog.records == []


def test_a_queued_call_can_be_cancelled(make: Callable[..., Pool], folder: Folder) -> None:
    pool = make()
    held = pool.submit("hold", "one")
    until(lambda: "holds one" in folder.entries())
    cancelled = pool.submit("write", "cancelled")
    later = pool.submit("write", "later")
    assert cancelled.cancel()
    assert not held.cancel()
    assert pool.pending == 2
    folder.allow("one")
    later.result(SOON)
    assert "cancelled" not in folder.entries()


def test_large_arguments_and_results_pass(make: Callable[..., Pool]) -> None:
    pool = make(workers=2)
    large = os.urandom(20_000_000)
    futures = [pool.submit("echo", large) for _ in range(4)]
    assert all(future.result(SOON) == large for future in futures)


def test_it_sleeps_when_idle(make: Callable[..., Pool]) -> None:
    pool = make()
    worker = pool.submit("pid").result(SOON)
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


def test_an_unpicklable_argument_is_refused_at_once_and_not_shown(make: Callable[..., Pool]) -> None:
    pool = make()
    with pytest.raises(CallNotSent) as raised:
        pool.submit("echo", Unpicklable())
    assert "echo" in str(raised.value)
    assert "ValueError" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert pool.pids == []


def test_an_unpicklable_result_fails_its_call_and_the_worker_lives_on(make: Callable[..., Pool]) -> None:
    pool = make()
    pid = pool.submit("pid").result(SOON)
    with pytest.raises(CallNotSent, match="make_function"):
        pool.submit("make_function").result(SOON)
    assert pool.submit("pid").result(SOON) == pid


@pytest.mark.parametrize("error", [ValueError("wrong", 3), KeyError("key"), SystemExit(4), AttributeError()])
def test_an_exception_comes_back_as_itself_with_its_traceback(
    make: Callable[..., Pool], error: BaseException
) -> None:
    pool = make()
    pid = pool.submit("pid").result(SOON)
    raised = pool.submit("fail", error).exception(SOON)
    assert type(raised) is type(error)
    assert raised.args == error.args
    assert "in fail" in str(raised.__cause__)
    assert pool.submit("pid").result(SOON) == pid


def test_a_method_that_is_missing_is_an_exception_too(make: Callable[..., Pool]) -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        make().submit("nonsense").result(SOON)


def test_an_exception_that_cant_be_pickled_comes_back_by_name(make: Callable[..., Pool]) -> None:
    with pytest.raises(PoolError, match="PrivateError") as raised:
        make().submit("fail_privately").result(SOON)
    assert "secret" not in str(raised.value)


def test_an_exception_that_cant_be_unpickled_comes_back_by_name(make: Callable[..., Pool]) -> None:
    with pytest.raises(PoolError, match="PickyError"):
        make().submit("fail_pickily").result(SOON)


def test_arguments_that_cant_be_unpickled_fail_their_call(make: Callable[..., Pool]) -> None:
    pool = make()
    with pytest.raises(CallNotSent, match="TypeError"):
        pool.submit("echo", PickyError("one", "two")).result(SOON)
    assert pool.submit("echo", 1).result(SOON) == 1


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_callback_that_raises_does_no_harm(make: Callable[..., Pool], error: type[BaseException]) -> None:
    def call_back(_: concurrent.futures.Future[Any]) -> None:
        raise error

    pool = make()
    for number in range(3):
        future = pool.submit("echo", number)
        future.add_done_callback(call_back)
        assert future.result(SOON) == number
    assert pool.submit("echo", 4).result(SOON) == 4


# Deaths of workers


@pytest.mark.parametrize("method", METHODS)
def test_a_call_whose_worker_is_killed_is_run_again_before_the_later_ones(
    make: Callable[..., Pool], folder: Folder, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    pool = make(method=method)
    held = pool.submit("hold", "one")
    later = [pool.submit("write", number) for number in range(3)]
    (first,) = until(lambda: folder.pids("holds one"))
    os.kill(first, signal.SIGKILL)
    until(lambda: len(folder.pids("holds one")) == 2)
    folder.allow("one")
    assert held.result(SOON) == "one"
    concurrent.futures.wait(later, SOON)
    assert folder.entries() == ["built", "holds one", "built", "holds one", "did one", "0", "1", "2"]
    assert pool.pids != [first]
    (record,) = caplog.records
    assert record.getMessage() == f"worker {first} of pool keepline ended by SIGKILL; hold() is run again"


def test_calls_of_two_workers_that_die_at_once_are_run_again_in_their_order(
    make: Callable[..., Pool], folder: Folder, hold_up: Callable[[Pool], threading.Event]
) -> None:
    pool = make(workers=3)
    futures = [pool.submit("hold", name) for name in ("one", "two")]
    until(lambda: {"holds one", "holds two"} <= set(folder.entries()))
    go_on = hold_up(pool)
    one, two, third = (folder.pids(f"holds {name}")[0] for name in ("one", "two", "up"))
    for pid in (two, one, third):
        os.kill(pid, signal.SIGKILL)
    until(lambda: all(has_ended(pid) for pid in (one, two, third)))
    go_on.set()
    until(lambda: len(folder.pids("holds one")) == len(folder.pids("holds two")) == 2)
    for name in ("one", "two"):
        folder.allow(name)
    assert [future.result(SOON) for future in futures] == ["one", "two"]


def test_a_call_that_kills_its_workers_is_given_up_and_the_pool_goes_on(
    make: Callable[..., Pool], folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(attempts=3)
    deadly = pool.submit("exit", 7)
    later = pool.submit("echo", "later")
    with pytest.raises(WorkerCrashed, match=r"3 workers .* exit\(\), the last by exit code 7"):
        deadly.result(SOON)
    assert later.result(SOON) == "later"
    assert folder.entries().count("exits") == 3
    assert len(caplog.records) == 3


def test_an_answer_counts_even_if_its_worker_has_died_since(
    make: Callable[..., Pool], folder: Folder, hold_up: Callable[[Pool], threading.Event]
) -> None:
    pool = make(workers=2)
    call = pool.submit("exit_after_the_answer", "one")
    (pid,) = until(lambda: folder.pids("holds one"))
    go_on = hold_up(pool)
    folder.allow("one")
    until(lambda: has_ended(pid))
    go_on.set()
    assert call.result(SOON) == "answer"
    assert folder.pids("holds one") == [pid]


def test_an_idle_worker_that_dies_is_replaced_when_there_is_a_call(make: Callable[..., Pool]) -> None:
    pool = make()
    first = pool.submit("pid").result(SOON)
    os.kill(first, signal.SIGKILL)
    until(lambda: pool.pids == [])
    assert pool.submit("pid").result(SOON) != first


def test_a_worker_that_closes_its_socket_is_replaced(make: Callable[..., Pool]) -> None:
    pool = make()
    first = pool.submit("pid").result(SOON)
    with pytest.raises(WorkerCrashed, match="SIGKILL"):
        pool.submit("close_its_socket").result(SOON)
    assert has_ended(first)
    assert pool.submit("echo", 1).result(SOON) == 1


def test_a_death_is_seen_even_if_a_child_of_the_worker_lives_on(
    make: Callable[..., Pool], folder: Folder
) -> None:
    pool = make(attempts=1)
    try:
        with pytest.raises(WorkerCrashed, match="SIGKILL"):
            pool.submit("leave_a_child").result(SOON)
        assert pool.submit("echo", 1).result(SOON) == 1
        assert pool.stop(SOON) == 0
    finally:
        for child in folder.pids("child"):
            os.kill(child, signal.SIGKILL)


def test_workers_are_replaced_even_if_others_reap_them(
    make: Callable[..., Pool], folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        pool = make()
        first = pool.submit("pid").result(SOON)
        os.kill(first, signal.SIGKILL)
        until(lambda: pool.pids == [])
        assert pool.submit("pid").result(SOON) != first
        assert pool.stop(SOON) == 0
        assert "someone else reaped it" in caplog.text
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("method", METHODS)
def test_without_pidfds_a_dead_worker_is_replaced_and_a_stop_is_bounded_all_the_same(
    make: Callable[..., Pool], folder: Folder, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    pool = make(method=method)
    held = pool.submit("hold", "one")
    (first,) = until(lambda: folder.pids("holds one"))
    os.kill(first, signal.SIGKILL)
    folder.allow("one")
    assert held.result(SOON) == "one"
    pool.submit("hang")
    (second,) = until(lambda: folder.pids("hangs"))
    assert stop_in_time(pool) == 1
    assert not psutil.pid_exists(second)


@pytest.mark.parametrize("method", METHODS)
def test_a_failing_factory_fails_the_calls_that_wait_until_it_works(
    make: Callable[..., Pool], folder: Folder, method: str
) -> None:
    pool = make(FailsInFactory, method, attempts=3)
    futures = [pool.submit("echo", number) for number in range(5)]
    for future in futures:
        with pytest.raises(PoolError, match="3 times in a row: LookupError: there is no such thing"):
            future.result(SOON)
    assert folder.entries() == ["built"] * 3
    assert pool.pending == 0
    folder.allow("start")
    assert pool.submit("echo", 1).result(SOON) == 1


def test_a_factory_that_kills_its_worker_starts_no_storm(make: Callable[..., Pool], folder: Folder) -> None:
    pool = make(ExitsInFactory)
    with pytest.raises(PoolError, match="ended by exit code 3 before it was ready"):
        pool.submit("echo", 1).result(SOON)
    assert folder.entries() == ["built"] * 2


def test_when_the_factory_fails_the_calls_are_left_to_the_workers_there_are(
    make: Callable[..., Pool], folder: Folder
) -> None:
    folder.allow("start")
    pool = make(FailsInFactory, workers=2)
    held = pool.submit("hold", "one")
    until(lambda: "holds one" in folder.entries())
    (folder.path / "start").unlink()
    later = [pool.submit("echo", number) for number in range(3)]
    until(lambda: folder.entries().count("built") == 3 and len(pool.pids) == 1)
    folder.allow("one")
    assert held.result(SOON) == "one"
    assert [future.result(SOON) for future in later] == [0, 1, 2]
    assert folder.entries().count("built") == 3


def test_a_factory_that_cant_be_sent_is_a_clear_error(make: Callable[..., Pool]) -> None:
    pool = make(lambda folder: None, "spawn")
    with pytest.raises(PoolError, match=r"can't start a worker, 2 times in a row: .*lambda"):
        pool.submit("echo").result(SOON)


def test_a_worker_that_isnt_ready_in_time_is_replaced(
    make: Callable[..., Pool], folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(HangsInFactory, start_timeout=READY)
    assert pool.submit("echo", 1).result(SOON) == 1
    assert folder.entries() == ["built"] * 2
    assert [record.getMessage() for record in caplog.records] == [
        "pool keepline can't start a worker: it wasn't ready in 3 s"
    ]


def test_a_manager_that_fails_gives_up_its_calls_and_is_replaced(
    make: Callable[..., Pool],
    folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = make()
    hanging = pool.submit("hang")
    (pid,) = until(lambda: folder.pids("hangs"))
    monkeypatch.setattr(Workers, "hand_out", lambda workers: 1 / 0)
    with pytest.raises(PoolStopped):
        pool.submit("echo", 1).result(SOON)
    assert isinstance(hanging.exception(SOON), PoolStopped)
    until(lambda: has_ended(pid))
    monkeypatch.undo()
    assert pool.submit("echo", 1).result(SOON) == 1
    assert "the manager of pool keepline failed: ZeroDivisionError" in caplog.text


def test_descriptors_run_out_and_come_back(make: Callable[..., Pool]) -> None:
    pool = make()
    pool.submit("echo", 1).result(SOON)
    os.kill(pool.pids[0], signal.SIGKILL)
    until(lambda: pool.pids == [])
    with no_descriptors_left(), pytest.raises(PoolError, match="Too many open files"):
        pool.submit("echo", 2).result(SOON)
    with no_descriptors_left(), pytest.raises(PoolError, match="try again later"):
        make().submit("echo", 2)
    assert pool.submit("echo", 3).result(SOON) == 3


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
    make: Callable[..., Pool], database: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    for _ in range(5):
        pool = make(Reads, workers=2)
        futures = []
        for _ in range(3):
            futures.append(pool.submit("rows"))
            with database():
                time.sleep(0.1)
        assert [future.result(SOON) for future in futures] == [3] * 3


def test_the_owner_may_change_a_database_while_a_worker_is_replaced(
    make: Callable[..., Pool],
    folder: Folder,
    database: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    pool = make(Reads)
    future = pool.submit("hold_then_read", "one")
    (first,) = until(lambda: folder.pids("holds one"))
    with database():
        os.kill(first, signal.SIGKILL)
        until(lambda: len(folder.pids("holds one")) == 2)
    folder.allow("one")
    assert future.result(SOON) == 3


@pytest.mark.usefixtures("here")
def test_workers_are_forked_in_the_thread_that_submits(make: Callable[..., Pool], folder: Folder) -> None:
    def submit(name: str) -> concurrent.futures.Future[Any]:
        HERE.name = name
        return pool.submit("forked_by")

    pool = make(workers=2)
    first, by = pool.submit("forked_by").result(SOON)
    assert by == "test"
    held = pool.submit("hold", "one")
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
    make: Callable[..., Pool], folder: Folder
) -> None:
    def children() -> list[int]:
        return [child.pid for child in psutil.Process().children(recursive=True) if child.pid not in others]

    others: list[int] = []
    others = children()
    pool = make()
    held, later = pool.submit("hold", "one"), pool.submit("forked_by")
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


@pytest.mark.usefixtures("here")
def test_a_call_that_is_submitted_in_a_callback_forks_nothing(
    make: Callable[..., Pool], folder: Folder
) -> None:
    pool = make(workers=2)
    futures = []

    def submit(_: object) -> None:
        futures.extend([pool.submit("hold", "one"), pool.submit("forked_by")])

    pool.submit("hold", "zero").add_done_callback(submit)
    folder.allow("zero")
    until(lambda: len(futures) == 2)
    assert futures[1].result(SOON)[1] == "nobody"
    folder.allow("one")
    assert futures[0].result(SOON) == "one"


def test_a_fresh_worker_that_is_killed_too_is_replaced(make: Callable[..., Pool], folder: Folder) -> None:
    pool = make(attempts=4)
    held = pool.submit("hold", "one")
    for number in (1, 2, 3):
        until(lambda number=number: len(folder.pids("holds one")) == number)
        os.kill(folder.pids("holds one")[-1], signal.SIGKILL)
    folder.allow("one")
    assert held.result(SOON) == "one"
    assert len(folder.pids("built")) == 4


def test_a_fresh_worker_is_stopped_in_time_while_it_starts(make: Callable[..., Pool], folder: Folder) -> None:
    for delay in (0, 0.02, 0.1, 0.3):
        pool = make()
        hanging = pool.submit("hang")
        (first,) = until(lambda pool=pool: [pid for pid in folder.pids("hangs") if pid in pool.pids])
        os.kill(first, signal.SIGKILL)
        until(lambda pool=pool, first=first: pool.pids not in ([], [first]))
        (fresh,) = pool.pids
        time.sleep(delay)
        assert stop_in_time(pool) == 1
        assert isinstance(hanging.exception(0), PoolStopped)
        assert not psutil.pid_exists(fresh)


def test_a_signal_to_the_whole_group_ends_no_fresh_worker_that_starts(
    run: Callable[..., subprocess.Popen[str]], folder: Folder
) -> None:
    program = run("""
signal.signal(signal.SIGTERM, lambda *_: None)
held = pool.submit("hold", "one")
worker, = until(lambda: folder.pids("holds one"))
os.kill(worker, signal.SIGKILL)
until(lambda: pool.pids not in ([], [worker]))
fresh, = pool.pids
while len(folder.pids("holds one")) < 2:
    os.killpg(0, signal.SIGTERM)
    time.sleep(0.001)
folder.allow("one")
assert held.result(20) == "one"
assert pool.submit("pid").result(20) == fresh
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
held = pool.submit("hold", "one")
worker, = until(lambda: folder.pids("holds one"))
os.kill(worker, signal.SIGKILL)
until(lambda: len(folder.pids("holds one")) == 2)
fresh, = pool.pids
def work():
    assert pool.pids == []
    own = pool.submit("pid").result(20)
    assert pool.pids == [own] != [fresh]
in_a_child(work)
in_a_child(lambda: None)
folder.allow("one")
assert held.result(20) == "one"
assert pool.submit("pid").result(20) == fresh
assert pool.stop(20) == 0
"""
    )
    outcome(program)


@pytest.mark.usefixtures("here")
def test_if_only_a_fork_has_the_factory_a_dead_workers_call_waits_for_the_next_submit(
    make: Callable[..., Pool], folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(lambda folder: Resident(folder))
    for name in ("one", "two"):
        held = pool.submit("hold", name)
        (first,) = until(lambda name=name: folder.pids(f"holds {name}"))
        os.kill(first, signal.SIGKILL)
        until(lambda: pool.pids == [])
        time.sleep(0.3)
        assert (pool.pids, pool.pending) == ([], 1)
        folder.allow(name)
        assert pool.submit("forked_by").result(SOON)[1] == "test"
        assert held.result(0) == name
    texts = [record.getMessage() for record in caplog.records if "without a fork" in record.getMessage()]
    assert len(texts) == 1
    assert "lambda" in texts[0]
    assert texts[0].endswith("1 calls wait for the next submit()")


def test_a_pool_whose_call_waits_for_a_fork_is_stopped_in_time(
    make: Callable[..., Pool], folder: Folder
) -> None:
    pool = make(lambda folder: Resident(folder))
    hanging = pool.submit("hang")
    (first,) = until(lambda: folder.pids("hangs"))
    os.kill(first, signal.SIGKILL)
    until(lambda: pool.pids == [])
    assert stop_in_time(pool) == 1
    assert isinstance(hanging.exception(0), PoolStopped)


def test_if_only_a_fork_has_the_factory_and_it_fails_the_calls_fail(
    make: Callable[..., Pool], folder: Folder
) -> None:
    pool = make(lambda folder: FailsInFactory(folder))
    with pytest.raises(PoolError, match="can't start a worker"):
        pool.submit("echo", 1).result(SOON)
    folder.allow("start")
    assert pool.submit("echo", 2).result(SOON) == 2


def test_a_factory_of_the_main_module_is_replaced_by_the_next_submit(
    run: Callable[..., subprocess.Popen[str]], folder: Folder
) -> None:
    program = run("""
def build():
    return Resident(folder)
pool = Pool(build, context=multiprocessing.get_context("fork"))
held = pool.submit("hold", "one")
worker, = until(lambda: folder.pids("holds one"))
os.kill(worker, signal.SIGKILL)
until(lambda: not pool._manager.workers._replaceable and pool.pids == [])
folder.allow("one")
assert pool.submit("echo", 1).result(20) == 1
assert held.result(20) == "one"
assert pool.stop(20) == 0
""")
    outcome(program)
    assert len(folder.pids("built")) == 2


@pytest.mark.parametrize("workers", [1, 3])
def test_there_are_never_more_workers_than_asked_for(
    make: Callable[..., Pool], folder: Folder, workers: int
) -> None:
    this = psutil.Process()
    before = {child.pid for child in this.children()}
    pool = make(workers=workers, attempts=1000)
    ended = threading.Event()
    most = 0

    def submit() -> None:
        while not ended.is_set():
            pool.submit("echo", 1).result(SOON)

    def count() -> int:
        living = [pid for child in this.children() if (pid := child.pid) not in before]
        return sum(not has_ended(pid) for pid in living)

    with concurrent.futures.ThreadPoolExecutor() as threads:
        submitting = [threads.submit(submit) for _ in range(4)]
        end = time.monotonic() + 4
        while time.monotonic() < end:
            for pid in pool.pids[:1]:
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


def test_a_fork_that_fails_is_an_error_only_if_no_worker_lives(
    make: Callable[..., Pool],
    folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    pool = make(workers=2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", fail)
        with pytest.raises(PoolError, match="temporarily unavailable; try again"):
            pool.submit("echo", 1)
    assert (pool.pids, pool.pending) == ([], 0)
    held = pool.submit("hold", "one")
    until(lambda: folder.pids("holds one"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", fail)
        later = pool.submit("echo", 2)
    assert "can't fork a worker: BlockingIOError" in caplog.text
    assert later.result(SOON) == 2  # by a fresh one
    folder.allow("one")
    assert held.result(SOON) == "one"


def test_a_pool_that_forked_nothing_is_stopped_all_the_same(
    make: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
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
    assert other.submit("echo", 2).result(SOON) == 2  # by the worker that was forked in vain


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
    pool = Pool(functools.partial(Resident, folder), context=multiprocessing.get_context("fork"))
    signal.setitimer(signal.ITIMER_REAL, 0.0002 * (1 + number % 20))
    with contextlib.suppress(InterruptError):
        pool.submit("echo", 0)
        time.sleep(1)
    assert pool.submit("echo", number).result(20) == number
    assert len(pool.pids) == 1
    assert pool.stop(20) == 0
print("done")
""")
    # An exception in the middle of Thread.start() has the interpreter complain of that thread.
    printed, _ = program.communicate(timeout=SOON)
    assert (program.returncode, printed) == (0, "done\n")


# Signals


def test_a_signal_meant_for_the_owner_loses_no_call(make: Callable[..., Pool], folder: Folder) -> None:
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
    before = {number: signal.signal(number, lambda *_: folder.write("handler")) for number in numbers}
    try:
        pool = make()
        future = pool.submit("hold", "one")
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


def test_programs_that_a_resident_starts_can_be_terminated(make: Callable[..., Pool]) -> None:
    assert make().submit("terminate_a_program").result(SOON) == -signal.SIGTERM


# Stopping


def test_a_stop_lets_the_queue_drain(make: Callable[..., Pool], folder: Folder) -> None:
    pool = make(workers=2)
    futures = [pool.submit("write", number) for number in range(50)]
    assert pool.stop(math.inf) == 0
    assert all(future.done() for future in futures)
    assert sorted(folder.entries()) == sorted(
        ["built", "closed"] * len(folder.pids("built")) + [str(n) for n in range(50)]
    )


def test_a_stopped_pool_takes_no_calls(make: Callable[..., Pool]) -> None:
    unused = make()
    unused.stop(0)
    used = make()
    used.submit("echo", 1).result(SOON)
    used.stop(SOON)
    for pool in (unused, used):
        with pytest.raises(PoolStopped):
            pool.submit("echo", 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("is_suspended", [False, True])
def test_a_stop_kills_a_worker_that_hangs_in_a_method(
    make: Callable[..., Pool], folder: Folder, method: str, is_suspended: bool
) -> None:
    pool = make(method=method)
    futures = [pool.submit("hang") for _ in range(3)]
    (pid,) = until(lambda: folder.pids("hangs"))
    if is_suspended:
        os.kill(pid, signal.SIGSTOP)
    assert stop_in_time(pool) == 3
    assert not psutil.pid_exists(pid)
    assert all(isinstance(future.exception(0), PoolStopped) for future in futures)


def test_a_stop_kills_an_idle_worker_that_is_suspended(make: Callable[..., Pool]) -> None:
    pool = make()
    pid = pool.submit("pid").result(SOON)
    os.kill(pid, signal.SIGSTOP)
    assert stop_in_time(pool) == 0
    assert not psutil.pid_exists(pid)


def test_a_stop_kills_a_worker_that_hangs_in_close(make: Callable[..., Pool], folder: Folder) -> None:
    pool = make(HangsInClose)
    pid = pool.submit("pid").result(SOON)
    assert stop_in_time(pool) == 0
    assert folder.pids("hangs in close") == [pid]
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("is_suspended", [False, True])
def test_a_stop_kills_a_worker_that_hangs_in_the_factory(
    make: Callable[..., Pool], folder: Folder, is_suspended: bool
) -> None:
    pool = make(HangsInFactory)
    pool.submit("echo", 1)
    (pid,) = until(lambda: folder.pids("built"))
    if is_suspended:
        os.kill(pid, signal.SIGSTOP)
    assert stop_in_time(pool) == 1
    assert not psutil.pid_exists(pid)


def test_a_suspended_worker_with_a_large_call_on_the_way_holds_up_no_one(
    make: Callable[..., Pool], folder: Folder
) -> None:
    pool = make(workers=2)
    pid = pool.submit("pid").result(SOON)
    os.kill(pid, signal.SIGSTOP)
    stuck = pool.submit("echo", bytes(20_000_000))
    assert pool.submit("echo", 1).result(SOON) == 1
    assert stop_in_time(pool) == 1
    assert isinstance(stuck.exception(0), PoolStopped)


def test_a_call_in_hand_at_the_timeout_may_still_finish(make: Callable[..., Pool], folder: Folder) -> None:
    pool = make()
    held, queued = pool.submit("hold", "one"), [pool.submit("write", "two")]
    until(lambda: "holds one" in folder.entries())
    with concurrent.futures.ThreadPoolExecutor() as threads:
        given_up = threads.submit(pool.stop, 0)
        queued += submit_until_refused(pool)
        folder.allow("one")
        assert held.result(SOON) == "one"
        assert given_up.result(SOON) == len(queued)
    assert all(isinstance(future.exception(0), PoolStopped) for future in queued)
    assert folder.entries() == ["built", "holds one", "did one", "closed"]


def test_many_threads_may_stop_and_get_the_same_answer(make: Callable[..., Pool], folder: Folder) -> None:
    pool = make()
    pool.submit("hang")
    until(lambda: "hangs" in folder.entries())
    with concurrent.futures.ThreadPoolExecutor(5) as threads:
        assert list(threads.map(pool.stop, [0.1] * 5)) == [1] * 5
    assert pool.stop(SOON) == 1


def test_a_stop_in_a_callback_doesnt_wait_for_itself(make: Callable[..., Pool], folder: Folder) -> None:
    pool = make()
    pool.submit("echo", 1).add_done_callback(lambda _: pool.stop(SOON))
    until(lambda: "closed" in folder.entries())
    assert pool.stop(SOON) == 0


def test_a_callback_that_blocks_doesnt_hold_up_a_stop(make: Callable[..., Pool], folder: Folder) -> None:
    pool = make(workers=2, name="blocked")
    blocked = threading.Event()
    pool.submit("hold", "one").add_done_callback(lambda _: blocked.wait())
    hanging = pool.submit("hang")
    until(lambda: {"hangs", "holds one"} <= set(folder.entries()))
    folder.allow("one")
    assert stop_in_time(pool) == 1
    assert isinstance(hanging.exception(0), PoolStopped)
    until(lambda: all(has_ended(pid) for pid in folder.pids("built")))
    blocked.set()
    until(lambda: "blocked-manager" not in [thread.name for thread in threading.enumerate()])
    assert pool.pids == []


def test_a_signal_handler_may_stop_in_the_middle_of_submits(make: Callable[..., Pool]) -> None:
    futures = []
    before = signal.signal(signal.SIGUSR1, lambda *_: pool.stop(SOON))
    try:
        for _ in range(10):
            pool = make()
            threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            futures += submit_until_refused(pool)
    finally:
        signal.signal(signal.SIGUSR1, before)
    done, not_done = concurrent.futures.wait(futures, 0)
    assert not not_done
    assert {future.exception() and type(future.exception()) for future in done} <= {None, PoolStopped}


# The owner's end

SIBLING = "pool.submit('echo', 1).result()\nif not os.fork(): signal.pause()\n"


@pytest.mark.parametrize(
    ("call", "before_the_end"),
    [
        ("pool.submit('hang'); until(lambda: 'hangs' in folder.entries())", ""),
        ("pool.submit('pid').result()", "os.kill(pool.pids[0], signal.SIGSTOP)"),
        (
            "pool.submit('hang'); until(lambda: 'hangs' in folder.entries())",
            "os.kill(pool.pids[0], signal.SIGSTOP)",
        ),
        ("pool = Pool(functools.partial(HangsInClose, folder)); pool.submit('pid').result()", ""),
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
        SIBLING * with_sibling + "pool.submit('echo', 1).result(); print(flush=True); signal.pause()", method
    )
    assert owner.stdout is not None
    owner.stdout.readline()
    owner.kill()
    (worker,) = until(lambda: folder.pids("closed"))
    until(lambda: has_ended(worker))


def test_without_pidfds_too_a_worker_ends_when_the_owner_is_killed(
    run: Callable[..., subprocess.Popen[str]], folder: Folder
) -> None:
    owner = run("del os.pidfd_open; pool.submit('echo', 1).result(); print(flush=True); signal.pause()")
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


def test_when_the_owner_is_killed_a_call_that_has_reached_its_worker_is_carried_out(
    run: Callable[..., subprocess.Popen[str]], folder: Folder
) -> None:
    owner = run("""
pool = Pool(functools.partial(Resident, folder), workers=2)
worker = pool.submit("pid").result()
os.kill(worker, signal.SIGSTOP)
pool.submit("write", "reached")
pool.submit("pid").result()  # by the other worker, so the call before was handed out
print(worker, flush=True)
signal.pause()
""")
    assert owner.stdout is not None
    worker = int(owner.stdout.readline())
    owner.kill()
    owner.wait(SOON)
    os.kill(worker, signal.SIGCONT)
    until(lambda: has_ended(worker))
    assert [what for pid, what in folder.read() if pid == worker] == ["built", "reached", "closed"]
    until(lambda: len(folder.pids("closed")) == 2)


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
worker = pool.submit("pid").result()
held = pool.submit("hold", "one")
def work():
    assert (pool.pids, pool.pending) == ([], 0)
    own = pool.submit("pid").result(20)
    assert own != worker and pool.pids == [own]
    assert pool.stop(20) == 0
    assert has_ended(own)
in_a_child(work)
in_a_child(lambda: pool.submit("pid").result(20))  # ends without a stop
in_a_child(lambda: pool.stop(0))
in_a_child(lambda: None)
folder.allow("one")
assert held.result(20) == "one"
assert pool.submit("pid").result(20) == worker
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
        pool.submit("echo", 1).result()
threads = [threading.Thread(target=submit) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(20):
    in_a_child(lambda: (pool.submit("echo", 2).result(20), pool.stop(20)))
ended.set()
for thread in threads:
    thread.join()
assert pool.stop(20) == 0
"""
        )
    )
