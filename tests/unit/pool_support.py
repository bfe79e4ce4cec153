"""What the tests of the pool share: residents that write down what they do, and pools that can be asked."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import multiprocessing
import os
import pickle
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from keepline.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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

    @property
    def spools(self) -> Path:
        """The folder of all spools."""
        return self.path / "spools"


class Asked:
    """A call whose resident writes down what came of it.

    A pool tells nobody what came of a call; the tests want to know.
    """

    def __init__(self, answer: Path) -> None:
        self._answer = answer

    def done(self) -> bool:
        return self._answer.exists()

    def result(self, timeout: float = SOON) -> Any:
        end = time.monotonic() + timeout
        while not self.done():
            assert time.monotonic() < end, "asked in vain"
            time.sleep(0.005)
        return pickle.loads(self._answer.read_bytes())


class AskingPool(Pool):
    """A pool whose residents can answer."""

    def __init__(self, factory: Any, diary: Folder, **settings: Any) -> None:
        self.diary = diary
        super().__init__(factory, **{"folder": lambda: diary.spools, **settings})

    def ask(self, method: str, *args: Any) -> Asked:
        answer = self.diary.path / f"{uuid.uuid4()}.answer"
        self.submit("answer", answer, method, args)
        return Asked(answer)


class Answers:
    def answer(self, path: Path, method: str, args: tuple[Any, ...]) -> None:
        value = getattr(self, method)(*args)
        path.with_suffix(".new").write_bytes(pickle.dumps(value))
        path.with_suffix(".new").rename(path)


class Resident(Answers):
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

    def write_slowly(self, what: object, _: object = None) -> None:
        time.sleep(0.01)
        self.folder.write(what)

    def hang_once(self, name: str) -> str:
        """Hang, until the test allows those that come later to go on."""
        self.folder.write(f"begins {name}")
        if not self.folder.allowed(name):
            threading.Event().wait()
        return name

    def need_memory_once(self, name: str) -> str:
        """Take more memory than this process may have; the next process may have it."""
        if not self.folder.allowed(name):
            self.folder.allow(name)
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        self.folder.write(f"needs memory for {name}")
        return str(len(bytes(1 << 31)))

    def stop_with_the_lock(self, state: Path, name: str) -> str:
        """Stop this process while it has the lock of its spool's state, the first time."""
        if not self.folder.allowed(name):
            self.folder.allow(name)
            with state.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self.folder.write("stops")
                os.kill(os.getpid(), signal.SIGSTOP)
        return name

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


class Picky:
    """It can be pickled, and unpickled only while a file is there: as if it were of another version since."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return _picky, (self.mark,)


def _picky(mark: Path) -> Picky:
    if not mark.exists():
        raise ImportError("secret")
    return Picky(mark)


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


class WithoutClose(Answers):
    def __init__(self, folder: Folder) -> None:
        folder.write("built")

    def echo(self, value: object) -> object:
        return value


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
def make(folder: Folder) -> Iterator[Callable[..., AskingPool]]:
    pools = []

    def make(resident: Any = Resident, method: str = "fork", **settings: Any) -> AskingPool:
        context = multiprocessing.get_context(method)
        factory = functools.partial(resident, folder)
        pools.append(AskingPool(factory, folder, context=context, **settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.stop(0)


@pytest.fixture
def run(folder: Folder) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Run a script in a process of its own; it has `folder` and a pool."""
    programs = []

    def run(script: str, method: str = "fork") -> subprocess.Popen[str]:
        head = f"""
import contextlib, functools, logging, multiprocessing, os, signal, sys, threading, time, warnings
from pathlib import Path
from keepline.pool import Pool
from tests.unit.pool_support import AskingPool, Folder, HangsInClose, Resident, has_ended, until

logging.disable()
warnings.filterwarnings("ignore", "This process", DeprecationWarning, "__main__")  # a script may fork
folder = Folder(Path({str(folder.path)!r}))
context = multiprocessing.get_context({method!r})
pool = AskingPool(functools.partial(Resident, folder), folder, context=context)
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
