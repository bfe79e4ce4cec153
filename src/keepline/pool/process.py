"""A worker process, as its pool sees it: start, ring, read what it says, kill, reap; nothing waits for it.

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
from keepline.pool.worker import BELL, CHUNK, DUTY, Duty, Frames, frame, serve

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

_REAP_TIMEOUT = 1.0  # seconds for a fork server to tell how a process, dead already, ended
_NO_SIGPIPE = getattr(socket, "MSG_NOSIGNAL", 0)


class State(enum.Enum):
    """What a worker is doing. It moves down this list; it can die in any."""

    NEW = "is being started, or the manager hasn't noticed it yet"
    STARTING = "builds its resident, until its deadline"
    SERVING = "takes calls, and can be rung"
    DOOMED = "was killed; its death is awaited"


class WorkerProcess:
    """One worker process.

    Args:
        name: the process' name, for multiprocessing.
        number: of the worker, in the spool.
        start_timeout: how long it may take until it is ready, seconds.

    Raises:
        OSError: no socket is to be had.
    """

    def __init__(self, name: str, number: int, start_timeout: float) -> None:
        self.number = number
        self.state = State.NEW
        self.deadline = math.inf
        self.ready_at = math.inf  # by the monotonic clock
        self.was_unfit = False  # it couldn't take over the factory
        self.pid = 0  # until it is started
        self.problem = ""  # why it died, as far as is known
        self._name = name
        self._start_timeout = start_timeout
        self._hung_up = False
        self._process: Any = None
        self._pidfd: int | None = None
        self._frames = Frames()
        self._unsent = memoryview(b"")
        self.sock, self._theirs = socket.socketpair()
        self.sock.setblocking(False)

    @property
    def was_ready(self) -> bool:
        """Whether its resident was built."""
        return self.ready_at < math.inf

    def start(self, context: BaseContext, duty: Duty) -> None:
        """Start the process by multiprocessing.

        Args:
            context: how.
            duty: of the worker.

        Raises:
            Exception: whatever multiprocessing raises, for example OSError, or PicklingError for the factory.
        """
        try:
            self._start(context, duty)
        except ChildProcessError:
            # This process was forked by one that has a fork server, which serves none but its parent.
            self._start(multiprocessing.get_context("spawn"), duty)
        getattr(multiprocessing.process, "_children", set()).discard(self._process)
        self._finish_start()

    def start_fresh(self, duty: bytes) -> None:
        """Start the process with an interpreter of its own.

        Args:
            duty: of the worker, pickled.

        Raises:
            Exception: see FreshProcess.
        """
        with holding_signals():
            self._process = FreshProcess(self._theirs.fileno())
        self._unsent = memoryview(frame(DUTY, duty))
        self._finish_start()

    def _start(self, context: BaseContext, duty: Duty) -> None:
        self._process = cast("Any", context).Process(
            target=serve,
            args=(self._theirs, duty, os.getpid()),
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
            self.state = State.SERVING
            self.ready_at = time.monotonic()
            self.deadline = math.inf
            self.ring()  # for what was submitted before it could be rung

    def ring(self) -> None:
        """Tell it that there may be a call; before it is ready it needn't be told. For any thread."""
        if self.state is State.SERVING:
            try:
                self.sock.send(BELL, _NO_SIGPIPE)
            except OSError:
                return  # full, so it was rung often enough; or the worker has died, as its sentinel tells

    def flush(self) -> None:
        """Send on, as far as the socket takes it."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.sock.send(self._unsent, _NO_SIGPIPE) :]
            if self._hung_up:
                self.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:  # it has died, as its sentinel tells
            self._unsent = memoryview(b"")

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

    def hang_up(self) -> None:
        """End the stream: the worker goes on until no call is left, closes its resident and ends."""
        self._hung_up = True
        self.flush()

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
