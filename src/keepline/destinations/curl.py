"""libcurl on an event loop: requests side by side on one thread, with connections kept alive.

Source: https://curl.se/libcurl/c/libcurl-multi.html, "multi_socket".
"""

from __future__ import annotations

import asyncio
import logging
import math
import select
from collections.abc import Callable

import pycurl

from keepline.errors import RelayError

log = logging.getLogger(__name__)

Finished = Callable[[int, str], None]
"""Called once for a transfer, with libcurl's code (0: it went through) and its message."""

_ANYTHING_NEW = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET
_KEEP_SECONDS = 10.0
_PIECE = 32 * 1024
"""Smaller bodies are sent in one go; libcurl's own buffer has twice as much."""
_FIRST_LOOK = 0.001
_LONGEST_LOOK = 0.1
_NO_SOCKET = -1
_STILL = 2
# pycurl 7.45.3 has the second of each only.
_UPLOADED = getattr(pycurl, "SIZE_UPLOAD_T", None) or pycurl.SIZE_UPLOAD
_SOCKET = getattr(pycurl, "ACTIVESOCKET", None) or pycurl.LASTSOCKET


class CurlLoop:
    """Runs libcurl's transfers on an asyncio loop; it wakes for sockets and timers only.

    All sockets are in one epoll of its own, which the loop watches like a single socket. A socket is put in
    there once, when it is opened, and tells of itself when something is new: that spares the calls, at each
    request, by which libcurl would have it watched and forgotten. What is new is worked off in one go, by one
    call that looks at every transfer; there are few at once, and most of them have something new. Two things
    no socket tells, and they are looked for instead: whether a name has been resolved, and whether there is
    more to send of a body that libcurl sends in pieces. When nothing was transferred for a while, all
    connections are closed.

    Args:
        loop: the loop of the thread that uses it.
        connections: most connections that are open, over all hosts; more transfers than that wait in line.

    Raises:
        RelayError: libcurl can't begin.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, connections: int) -> None:
        self._loop = loop
        self._connections = connections
        self._used_at = 0.0
        self._keeping: asyncio.TimerHandle | None = None
        self._finished: dict[pycurl.Curl, Finished] = {}
        self._starting: asyncio.Handle | None = None
        self._started: list[pycurl.Curl] = []
        self._uploads: dict[pycurl.Curl, _Upload] = {}
        # Those that have no socket yet, most likely because their host's name is being resolved.
        self._resolving: list[pycurl.Curl] = []
        self._resolved: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._closed = False
        try:
            self._epoll = select.epoll()
            self._multi = self._begin(connections)
        except (pycurl.error, OSError) as error:
            raise RelayError(
                f"can't set up libcurl: {error}; raise the limit of open files of this process"
            ) from error
        loop.add_reader(self._epoll.fileno(), self._on_ready)

    def _begin(self, connections: int) -> pycurl.CurlMulti:
        multi = pycurl.CurlMulti()
        multi.setopt(pycurl.M_MAXCONNECTS, connections)
        multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, connections)
        return multi

    def watch(self, fd: int, purpose: int) -> int:
        """Be told of a new socket; every handle has this as its ``SOCKOPTFUNCTION``.

        Args:
            fd: the socket, which leaves the epoll when it is closed.
            purpose: what it is for, in libcurl's words.

        Returns:
            what libcurl wants to hear.
        """
        self._epoll.register(fd, _ANYTHING_NEW)
        return int(pycurl.SOCKOPT_OK)

    def start(self, handle: pycurl.Curl, size: int, finished: Finished) -> None:
        """Begin a transfer.

        Args:
            handle: an easy handle, ready to go.
            size: of the body that is sent, bytes.
            finished: called on the loop when it is over, and not before this has returned.
        """
        self._finished[handle] = finished
        self._multi.add_handle(handle)
        self._started.append(handle)
        if size > _PIECE:
            self._uploads[handle] = _Upload(size)
        self._run_soon()

    def cancel(self, handle: pycurl.Curl) -> None:
        """End a transfer without a call to ``finished``; nothing happens when it isn't under way."""
        if self._finished.pop(handle, None) is not None:
            self._multi.remove_handle(handle)
            self._uploads.pop(handle, None)

    def close(self) -> None:
        """Close every connection. Transfers under way are not answered."""
        if self._closed:
            return
        for handle in list(self._finished):
            self.cancel(handle)
        self._closed = True
        self._multi.close()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        if self._starting is not None:
            self._starting.cancel()
        for timer in (self._timer, self._keeping, self._resolved):
            if timer is not None:
                timer.cancel()

    def _on_ready(self) -> None:
        self._epoll.poll(0)
        self._perform()

    def _run_soon(self) -> None:
        if self._starting is None:
            # Through the loop, so that all that are started in one turn of it are sent in one go.
            self._starting = self._loop.call_soon(self._run_due)

    def _run_due(self) -> None:
        self._starting = None
        started, self._started = self._started, []
        self._perform()
        for handle in started:
            if handle in self._finished and handle.getinfo(_SOCKET) == _NO_SOCKET:
                self._resolving.append(handle)
        if self._resolving and self._resolved is None:
            self._look_again(_FIRST_LOOK)

    def _look_again(self, pause: float) -> None:
        self._resolved = self._loop.call_later(pause, self._look, pause)

    def _look(self, paused: float) -> None:
        self._resolved = None
        self._perform()
        self._resolving = [
            handle
            for handle in self._resolving
            if handle in self._finished and handle.getinfo(_SOCKET) == _NO_SOCKET
        ]
        if self._resolving:
            self._look_again(min(paused * 2, _LONGEST_LOOK))

    def _perform(self) -> None:
        try:
            self._multi.perform()
        except pycurl.error as error:
            # What is wrong with one transfer, its own message says; with all of them, their deadlines.
            log.debug("libcurl: %s", error)
        self._collect()
        for handle, upload in self._uploads.items():
            if upload.goes_on(handle):
                self._run_soon()

    def _collect(self) -> None:
        queued = 1
        while queued and not self._closed:
            queued, succeeded, failed = self._multi.info_read()
            for handle in succeeded:
                self._finish(handle, 0, "")
            for handle, code, message in failed:
                self._finish(handle, code, message)
        if not self._closed:
            self._wake_after(self._multi.timeout())

    def _finish(self, handle: pycurl.Curl, code: int, message: str) -> None:
        finished = self._finished.pop(handle, None)
        if finished is not None:
            self._multi.remove_handle(handle)
            if self._uploads:
                self._uploads.pop(handle, None)
            finished(code, message)
            if not self._finished:
                self._used_at = self._loop.time()
                if self._keeping is None:
                    self._keeping = self._loop.call_later(_KEEP_SECONDS, self._on_kept)

    def _on_kept(self) -> None:
        """Close the connections that nobody has wanted for a while: servers have a use for them."""
        self._keeping = None
        idle = 0.0 if self._finished else self._loop.time() - self._used_at
        if idle < _KEEP_SECONDS:
            # One timer, however many transfers there were meanwhile; none while some are under way.
            if not self._finished:
                self._keeping = self._loop.call_later(_KEEP_SECONDS - idle, self._on_kept)
            return
        self._multi.close()
        self._multi = self._begin(self._connections)

    def _wake_after(self, milliseconds: int) -> None:
        self._due = self._loop.time() + milliseconds / 1000 if milliseconds >= 0 else math.inf
        # One that ends too early costs less than a new one for each request; none is left when all is done.
        if self._timer is not None and not self._timer.when() <= self._due < math.inf:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and self._due < math.inf:
            self._timer = self._loop.call_at(self._due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._due > self._loop.time():
            self._timer = self._loop.call_at(self._due, self._on_timer)
        else:
            self._run_due()


class _Upload:
    """A body that is sent in pieces, as long as it isn't sent.

    After a piece libcurl lets others have their turn. Its socket has nothing new to tell then, for it never
    stopped taking; only when it did, it tells that it takes more.

    Args:
        size: of the body, bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._sent = 0
        self._still = 0

    def goes_on(self, handle: pycurl.Curl) -> bool:
        """Whether libcurl may be able to send more at once.

        Args:
            handle: of its transfer.
        """
        sent = handle.getinfo(_UPLOADED)
        if sent > self._sent:
            self._sent, self._still = sent, 0
        else:
            self._still += 1
        # The number is of what libcurl has taken up, a buffer ahead of what the socket took: once without
        # progress means little.
        return 0 < sent < self._size and self._still < _STILL
