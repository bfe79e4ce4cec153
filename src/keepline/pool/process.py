"""A worker process, as its pool sees it: start, give a call, read answers, kill, reap; nothing waits for it.

The process is kept out of the registry of multiprocessing: at the interpreter's exit that joins its children
without a bound, and sends a SIGTERM to daemonic ones by a pid that may be another's by then. A pidfd is used
where there is one, because it can't mean another process, and because other children of this process may hold
copies of the pipe whose end is multiprocessing's own sign of a death.
"""

from __future__ import annotations

import contextlib
import enum
import math
import multiprocessing
import os
import selectors
import signal
import socket
import time
from typing import TYPE_CHECKING, Any, cast

from keepline.pool.forking import forking, holding_signals
from keepline.pool.fresh import FreshProcess
from keepline.pool.worker import CALL, CHUNK, FACTORY, Frames, frame, serve

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext

    from keepline.pool.call import Call

_REAP_TIMEOUT = 1.0  # seconds for a fork server to tell how a process, dead already, ended
_NO_SIGPIPE = getattr(socket, "MSG_NOSIGNAL", 0)


class State(enum.Enum):
    """What a worker is doing. It moves down this list, and between IDLE and BUSY; it can die in any."""

    NEW = "is being started, or the manager hasn't noticed it yet"
    STARTING = "builds its resident, until its deadline"
    IDLE = "waits for a call"
    BUSY = "has one call"
    DOOMED = "was killed; its death is awaited"


class WorkerProcess:
    """One worker process.

    Args:
        name: the process' name, for multiprocessing.
        start_timeout: how long it may take until it is ready, seconds.

    Raises:
        OSError: no socket is to be had.
    """

    def __init__(self, name: str, start_timeout: float) -> None:
        self.state = State.NEW
        self.deadline = math.inf
        self.was_ready = False
        self.was_unfit = False  # it couldn't take over the factory
        self.pid = 0  # until it is started
        self.problem = ""  # why it died before it was ready, as far as is known
        self._name = name
        self._start_timeout = start_timeout
        self._call: Call | None = None
        self._process: Any = None
        self._pidfd: int | None = None
        self._frames = Frames()
        self._unsent = memoryview(b"")
        self.sock, self._theirs = socket.socketpair()
        self.sock.setblocking(False)

    def start(self, context: BaseContext, factory: Callable[[], object]) -> None:
        """Start the process by multiprocessing.

        Args:
            context: how.
            factory: builds the resident, in the worker.

        Raises:
            Exception: whatever multiprocessing raises, for example OSError, or PicklingError for the factory.
        """
        try:
            self._start(context, factory)
        except ChildProcessError:
            # This process was forked by one that has a fork server, which serves none but its parent.
            self._start(multiprocessing.get_context("spawn"), factory)
        getattr(multiprocessing.process, "_children", set()).discard(self._process)
        self._finish_start()

    def start_fresh(self, factory: bytes) -> None:
        """Start the process with an interpreter of its own.

        Args:
            factory: what builds the resident, pickled.

        Raises:
            Exception: see FreshProcess.
        """
        with holding_signals():
            self._process = FreshProcess(self._theirs.fileno())
        self._unsent = memoryview(frame(FACTORY, factory))
        self._finish_start()

    def _start(self, context: BaseContext, factory: Callable[[], object]) -> None:
        self._process = cast("Any", context).Process(
            target=serve,
            args=(self._theirs, factory, os.getpid()),
            kwargs={"direct": context.get_start_method() != "forkserver"},
            name=self._name,
            daemon=False,
        )
        with forking() if context.get_start_method() == "fork" else contextlib.nullcontext():
            self._process.start()

    def _finish_start(self) -> None:
        self._theirs.close()
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # an old kernel, a sandbox, no descriptor left
                self._pidfd = os.pidfd_open(self._process.pid)
        self.pid = self._process.pid  # last: from now on it is the manager's

    def break_off(self) -> None:
        """Undo a start that wasn't finished."""
        if self._process is not None and self._process.pid:
            self._process.kill()
            self.reap()
        self.close()  # by which it ends, should it have come into being after all

    @property
    def sentinel(self) -> int:
        """A file descriptor that can be read when the process has ended."""
        return cast("int", self._process.sentinel) if self._pidfd is None else self._pidfd

    @property
    def events(self) -> int:
        """What to wait for on the socket, as a selectors event mask."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)

    def be_noticed(self) -> None:
        """Note that the manager watches it now."""
        self.state = State.STARTING
        self.deadline = time.monotonic() + self._start_timeout

    def be_ready(self) -> None:
        """Note that the resident is built."""
        if self.state is State.STARTING:  # or else it was killed a moment ago
            self.state = State.IDLE
            self.was_ready = True
            self.deadline = math.inf

    def give(self, call: Call) -> None:
        """Hand over a call; as much of it as the socket takes is sent, the rest by flush().

        Args:
            call: what to carry out; the worker must be IDLE.
        """
        self.state = State.BUSY
        self._call = call
        self._unsent = memoryview(frame(CALL, call.body))
        self.flush()

    def flush(self) -> None:
        """Send on, as far as the socket takes it."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.sock.send(self._unsent, _NO_SIGPIPE) :]
        except BlockingIOError:
            return
        except OSError:  # it has died, as its sentinel tells
            self._unsent = memoryview(b"")

    def take_call(self) -> Call | None:
        """Take back the call that the worker has, if any."""
        call, self._call = self._call, None
        if self.state is State.BUSY:
            self.state = State.IDLE
        return call

    def receive(self) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Read what has come.

        Returns:
            the frames that are whole, and whether the worker can still send more.
        """
        frames: list[tuple[bytes, bytes]] = []
        while True:
            try:
                data = self.sock.recv(CHUNK)
            except BlockingIOError:
                return frames, True
            except OSError:
                return frames, False
            if not data:
                return frames, False
            frames += self._frames.feed(data)

    def tell_to_end(self) -> None:
        """End the stream of calls: the worker finishes the one it has, closes its resident and ends."""
        self._unsent = memoryview(b"")
        with contextlib.suppress(OSError):  # it has died
            self.sock.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """Kill the process. For any thread."""
        if self.state is not State.NEW:  # it would miss being noticed
            self.state = State.DOOMED
        self.deadline = math.inf
        with contextlib.suppress(ProcessLookupError, ValueError):  # it has died, or is reaped
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            elif self.pid:
                self._process.kill()

    def reap(self) -> str:
        """Collect the process, which has ended, and close what belonged to it.

        Returns:
            how it ended: "SIGKILL", "exit code 1".
        """
        code = self._process.exitcode
        if code is None:
            self._process.join(_REAP_TIMEOUT)
            code = self._process.exitcode
        self.close()
        with contextlib.suppress(ValueError):  # someone else reaped it
            self._process.close()
        if code is None:
            return "unknown: someone else reaped it"
        if code >= 0:
            return f"exit code {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"

    def close(self) -> None:
        """Close what this process still has of the worker, which has ended or was never started."""
        self._theirs.close()
        self.let_go()

    def let_go(self) -> None:
        """Close the owner's ends, in a forked child; the child may be the worker, which needs its own end."""
        self.sock.close()
        if isinstance(self._process, FreshProcess):
            self._process.close()
        pidfd, self._pidfd = self._pidfd, None
        if pidfd is not None:
            os.close(pidfd)
