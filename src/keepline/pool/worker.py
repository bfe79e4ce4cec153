"""What runs in a worker process: one resident for life, one call at a time.

The worker's end of the socket carries frames: calls come in, answers go out. The worker ends at the end of
that stream, which is how the pool tells it to, or when the pool's owner has died and nothing is left to read.
That death is not read from the socket alone, because other children of the owner may hold copies of its end.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import selectors
import signal
import struct
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

from keepline.errors import CallNotSent

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

FACTORY = b"f"  # to a fresh worker, before all else: the pickled factory
CALL = b"c"  # to the worker: pickled (method, args, kwargs)
UNFIT = b"u"  # from a fresh worker: a pickled Failure, of unpickling the factory
READY = b"r"  # from the worker: its resident is built
VALUE = b"v"  # from the worker: the pickled result of the call
ERROR = b"e"  # from the worker: a pickled Failure, of the call, or of the factory when it wasn't ready yet

CHUNK = 1 << 16  # bytes to read at once

_HEADER = struct.Struct("!cQ")

# They are for the owner, and reach its workers too when sent to a whole group. No call must be lost by that:
# the owner ends its workers, or its death does.
_NOT_FOR_WORKERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Failure(NamedTuple):
    """An exception, as it travels. The title is "type: text"; pickled is empty if it can't be."""

    kind: str
    title: str
    traceback: str
    pickled: bytes


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


def serve(sock: socket.socket, factory: Callable[[], object] | None, owner: int, *, direct: bool) -> None:
    """Build the resident, carry out calls on it until told to end, close it.

    Args:
        sock: the worker's end of its socket.
        factory: builds the resident; None if it comes over the socket.
        owner: pid of the process that owns the pool.
        direct: whether the owner is this process' parent (with a fork server it isn't).
    """
    _take_over_signals()
    line = _Line(sock, owner, direct=direct)
    if factory is None:
        for first in line.calls():
            try:
                factory = pickle.loads(first)  # noqa: S301 - our own pool pickled it
            except BaseException as error:
                line.send(UNFIT, _describe(error))
            break
    if factory is None:  # told to end, or unfit
        return
    try:
        resident = factory()
    except BaseException as error:  # even SystemExit has to be told
        line.send(ERROR, _describe(error))
        return
    try:
        line.send(READY, b"")
        for call in line.calls():
            line.send(*_answer(resident, call))
    finally:
        _close(resident)


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


class _Line:
    """The worker's end of the socket; every wait on it ends when the owner dies."""

    def __init__(self, sock: socket.socket, owner: int, *, direct: bool) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._frames = Frames()
        self._selector = selectors.PollSelector()
        self._selector.register(sock, selectors.EVENT_READ)
        self._orphan = False
        parent = multiprocessing.parent_process()
        if parent is not None:
            self._selector.register(parent.sentinel, selectors.EVENT_READ)
        if hasattr(os, "pidfd_open"):
            try:
                self._selector.register(os.pidfd_open(owner), selectors.EVENT_READ)
            except ProcessLookupError:
                self._orphan = True
            except OSError:  # Linux before 5.3, or a sandbox: the sentinel has to do
                logger.debug("no pidfd here", exc_info=True)
        if (
            direct and os.getppid() != owner
        ):  # it died before the pidfd was opened, and its pid may live again
            self._orphan = True

    def calls(self) -> Iterator[bytes]:
        """Yield the calls that come; end when told to, or when the owner has died and no call is left."""
        while self._usable(selectors.EVENT_READ):
            try:
                data = self._sock.recv(CHUNK)
            except ConnectionError:  # the owner died without reading all our answers
                return
            if not data:
                return
            for _, call in self._frames.feed(data):
                yield call

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

    def _usable(self, event: int) -> bool:
        """Wait until the socket can be read or written; False if it can't and the owner has died."""
        self._selector.modify(self._sock, event)
        ready = self._selector.select(0 if self._orphan else None)
        return any(key.fileobj is self._sock for key, _ in ready)


def _answer(resident: object, call: bytes) -> tuple[bytes, bytes]:
    try:
        method, args, kwargs = pickle.loads(call)  # noqa: S301 - our own pool pickled it
    except Exception as error:
        name = type(error).__name__
        return ERROR, _describe(
            CallNotSent(f"a worker can't unpickle the call ({name}); is its type importable?")
        )
    try:
        value: Any = getattr(resident, method)(*args, **kwargs)
    except BaseException as error:  # even SystemExit is the call's, not the worker's
        return ERROR, _describe(error)
    try:
        return VALUE, pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        name = type(error).__name__
        return ERROR, _describe(
            CallNotSent(f"the result of {method}() can't be pickled ({name}); return plain data")
        )


def _describe(error: BaseException) -> bytes:
    try:
        pickled = pickle.dumps(error, pickle.HIGHEST_PROTOCOL)
    except Exception:
        pickled = b""
    title = "".join(traceback.format_exception_only(type(error), error)).strip()
    failure = Failure(type(error).__name__, title, "".join(traceback.format_exception(error)), pickled)
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
