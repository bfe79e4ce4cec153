"""What runs in a worker process: one resident for life, one call at a time.

The worker takes its calls from the spool by itself. Its end of the socket carries little: what it was made
of and how that went, and the bell, any byte, which means that there may be a call. At the end of that
stream the worker goes on until no call is left, and ends. When the pool's owner has died it ends after the
call that it has. That death is not read from the socket alone, because other children of the owner may hold
copies of its end.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import selectors
import signal
import struct
import traceback
from typing import TYPE_CHECKING, NamedTuple

from keepline.errors import OutboxError
from keepline.pool.aside import set_aside
from keepline.pool.reader import Reader

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from keepline.pool.place import Place
    from keepline.pool.written import Written

logger = logging.getLogger(__name__)

DUTY = b"d"  # to a fresh worker, before all else: a pickled Duty
UNFIT = b"u"  # from a fresh worker: a pickled Failure, of unpickling the duty
READY = b"r"  # from the worker: its resident is built
ERROR = b"e"  # from the worker: a pickled Failure, of the factory

BELL = b"!"
CHUNK = 1 << 16  # bytes to read at once
OUT_OF_MEMORY = 70  # the exit code of a worker whose call had no memory; another runs it again

_HEADER = struct.Struct("!cQ")

# They are for the owner, and reach its workers too when sent to a whole group. No call must be lost by that:
# the owner ends its workers, or its death does.
_NOT_FOR_WORKERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Duty(NamedTuple):
    """What a worker is to do.

    Args:
        factory: builds its resident.
        place: of the spool.
        number: of the worker, in that spool.
    """

    factory: Callable[[], object]
    place: Place
    number: int


class Failure(NamedTuple):
    """An exception, as it travels. The title is "type: text"."""

    title: str
    traceback: str


def frame(kind: bytes, body: bytes) -> bytes:
    """Make a frame: one message between a pool and a worker.

    Args:
        kind: one of the kinds above.
        body: what the kind says.
    """
    return _HEADER.pack(kind, len(body)) + body


class Frames:
    """Puts frames together again from a stream's pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Take the next piece of the stream.

        Args:
            data: bytes as they came.

        Returns:
            (kind, body) of each frame that this piece completed.
        """
        self._buffer += data
        frames = []
        while len(self._buffer) >= _HEADER.size:
            kind, size = _HEADER.unpack_from(self._buffer)
            end = _HEADER.size + size
            if len(self._buffer) < end:
                break
            frames.append((kind, bytes(self._buffer[_HEADER.size : end])))
            del self._buffer[:end]
        return frames


def serve(sock: socket.socket, duty: Duty | None, owner: int, *, direct: bool) -> None:
    """Build the resident, carry out calls on it until told to end, close it.

    Args:
        sock: the worker's end of its socket.
        duty: what to do; None if it comes over the socket.
        owner: pid of the process that owns the pool.
        direct: whether the owner is this process' parent (with a fork server it isn't).
    """
    _take_over_signals()
    _give_way()
    line = _Line(sock, owner, direct=direct)
    if duty is None and (first := line.first()) is not None:
        try:
            duty = pickle.loads(first)  # noqa: S301 - our own pool pickled it
        except BaseException as error:
            line.send(UNFIT, _describe(error))
    if duty is None:  # told to end, or unfit
        return
    try:
        resident = duty.factory()
    except BaseException as error:  # even SystemExit has to be told
        line.send(ERROR, _describe(error))
        return
    try:
        line.send(READY, b"")
        _work(resident, duty, line)
    finally:
        _close(resident)


def _work(resident: object, duty: Duty, line: _Line) -> None:
    reader = Reader(duty.place, duty.number)
    try:
        while not line.orphan:
            if (call := reader.next()) is not None:
                _run(resident, call, reader)
            elif not line.wait():
                break
    finally:
        try:
            reader.end()
        except (OSError, OutboxError) as error:  # the owner is dead, and its spool was adopted
            logger.debug("pool worker %d can't say that it is done: %s", os.getpid(), error)


def _take_over_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        # A handler that was inherited is the owner's: it would do here what is meant for the owner. And where
        # SIGCHLD is ignored, the resident can't learn how programs that it starts have ended.
        if callable(signal.getsignal(number)) or number == signal.SIGCHLD:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for number in _NOT_FOR_WORKERS:
        # Not SIG_IGN: programs that the resident starts would inherit it, and no one could terminate them.
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)
    # The pool holds signals back while it forks, so that none meets the owner's handlers in here. A timer
    # needs no care: a forked child has none.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _give_way() -> None:
    """Have this process not interrupt who has just rung it, which is in the middle of its own work."""
    # What it starts has the usual policy again.
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH | os.SCHED_RESET_ON_FORK, os.sched_param(0))


class _Line:
    """The worker's end of the socket; every wait on it ends when the owner dies."""

    def __init__(self, sock: socket.socket, owner: int, *, direct: bool) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._owner = owner
        self._direct = direct
        self._ended = False
        self._dead = False
        self._selector = selectors.PollSelector()
        self._selector.register(sock, selectors.EVENT_READ)
        parent = multiprocessing.parent_process()
        if parent is not None:
            self._selector.register(parent.sentinel, selectors.EVENT_READ)
        if hasattr(os, "pidfd_open"):
            try:
                self._selector.register(os.pidfd_open(owner), selectors.EVENT_READ)
            except ProcessLookupError:
                self._dead = True
            except OSError:  # Linux before 5.3, or a sandbox: the sentinel has to do
                logger.debug("no pidfd here", exc_info=True)

    @property
    def orphan(self) -> bool:
        """Whether the owner has died."""
        # Its pid is looked at too: it may have died, and its pid live again, before the pidfd was opened.
        if not self._dead and not (self._direct and os.getppid() != self._owner):
            self._look(0)
            return self._dead
        return True

    def first(self) -> bytes | None:
        """Wait for the first frame; None if it doesn't come."""
        frames = Frames()
        while self._usable(selectors.EVENT_READ):
            try:
                data = self._sock.recv(CHUNK)
            except OSError:
                return None
            if not data:
                return None
            for _, body in frames.feed(data):
                return body
        return None

    def wait(self) -> bool:
        """Wait until there may be a call; False if there will be none."""
        return not self._ended and self._usable(selectors.EVENT_READ) and self._hear()

    def send(self, kind: bytes, body: bytes) -> None:
        """Send a frame; when the owner has died, drop it.

        Args:
            kind: one that a worker sends.
            body: what the kind says.
        """
        rest = memoryview(frame(kind, body))
        while rest and self._usable(selectors.EVENT_WRITE):
            try:
                rest = rest[self._sock.send(rest) :]
            except ConnectionError:
                return

    def _hear(self) -> bool:
        try:
            self._ended = not self._sock.recv(CHUNK)
        except OSError:
            return False
        return True  # at the end of the stream too: it may have rung before

    def _look(self, timeout: float | None) -> bool:
        ready = self._selector.select(timeout)
        self._dead = self._dead or any(key.fileobj is not self._sock for key, _ in ready)
        return any(key.fileobj is self._sock for key, _ in ready)

    def _usable(self, event: int) -> bool:
        """Wait until the socket can be read or written; False if it can't and the owner has died."""
        self._selector.modify(self._sock, event)
        return self._look(0 if self._dead else None)


def _run(resident: object, call: Written, reader: Reader) -> None:
    try:
        args, kwargs = pickle.loads(call.arguments)  # noqa: S301 - it stood in this user's own file
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception as error:
        # What it is made of may be of another version by now.
        kept = "it is set aside" if set_aside(reader.place, call) else "it is given up"
        name = type(error).__name__
        logger.warning("a pool worker can't unpickle a call of %s() (%s); %s", call.method, name, kept)
        logger.debug("the failure was", exc_info=True)
        return
    try:
        getattr(resident, call.method)(*args, **kwargs)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)  # without more ado, which would need memory
    except BaseException as error:  # even SystemExit is the call's, not the worker's
        logger.warning("%s() raised %s in a pool worker", call.method, type(error).__name__)
        logger.debug("it was", exc_info=True)


def _describe(error: BaseException) -> bytes:
    title = "".join(traceback.format_exception_only(type(error), error)).strip()
    failure = Failure(title, "".join(traceback.format_exception(error)))
    return pickle.dumps(failure, pickle.HIGHEST_PROTOCOL)


def _close(resident: object) -> None:
    close = getattr(resident, "close", None)
    if close is None:
        return
    try:
        close()
    except Exception as error:
        logger.warning(
            "the resident of pool worker %d failed to close: %s", os.getpid(), type(error).__name__
        )
        logger.debug("the failure was", exc_info=True)
