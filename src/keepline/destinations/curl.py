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

_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_WANTED = {pycurl.POLL_IN: _IN, pycurl.POLL_OUT: _OUT, pycurl.POLL_INOUT: _IN | _OUT}
_READY = {
    _IN: pycurl.CSELECT_IN,
    _OUT: pycurl.CSELECT_OUT,
    _IN | _OUT: pycurl.CSELECT_IN | pycurl.CSELECT_OUT,
}
_KEEP_SECONDS = 10.0
_BROKEN = pycurl.CSELECT_IN | pycurl.CSELECT_OUT | pycurl.CSELECT_ERR


class CurlLoop:
    """Runs libcurl's transfers on an asyncio loop; it wakes for sockets and timers only.

    All sockets are in one epoll of its own, which the loop watches like a single socket: what is ready is
    worked off in one go. A kept connection stays in there, since most are wanted again at once; when nothing
    was transferred for a while, all are closed.

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
        self._watched: dict[int, int] = {}
        self._kept: set[int] = set()
        self._starting: asyncio.Handle | None = None
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
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        return multi

    def start(self, handle: pycurl.Curl, finished: Finished) -> None:
        """Begin a transfer.

        Args:
            handle: an easy handle, ready to go.
            finished: called on the loop when it is over, and not before this has returned.
        """
        self._finished[handle] = finished
        self._multi.add_handle(handle)
        if self._starting is None:
            # Through the loop, so that all that are started in one turn of it are sent in one go.
            self._starting = self._loop.call_soon(self._run_due)

    def cancel(self, handle: pycurl.Curl) -> None:
        """End a transfer without a call to ``finished``; nothing happens when it isn't under way."""
        if self._finished.pop(handle, None) is not None:
            self._multi.remove_handle(handle)

    def close(self) -> None:
        """Close every connection. Transfers under way are not answered."""
        if self._closed:
            return
        for handle in list(self._finished):
            self.cancel(handle)
        # libcurl still calls back while it closes, to have its sockets forgotten.
        self._closed = True
        self._multi.close()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        if self._starting is not None:
            self._starting.cancel()
        for timer in (self._timer, self._keeping):
            if timer is not None:
                timer.cancel()

    def _on_socket(self, what: int, fd: int, multi: object, data: object) -> None:
        if self._closed:
            return
        wanted = _WANTED.get(what, 0)
        if not wanted:
            self._kept.add(fd)
            return
        self._kept.discard(fd)
        known = fd in self._watched
        self._watched[fd] = wanted
        if known:
            try:
                # Each time, since only the kernel knows whether this is still the same socket.
                self._epoll.modify(fd, wanted)
                return
            except FileNotFoundError:
                pass
        self._epoll.register(fd, wanted)

    def _on_ready(self) -> None:
        for fd, events in self._epoll.poll(0):
            if fd in self._kept or fd not in self._watched:
                self._unwatch(fd)
            else:
                self._act(fd, _READY.get(events, _BROKEN))
        self._collect()

    def _unwatch(self, fd: int) -> None:
        # The server hung up; libcurl finds out when it is about to use the connection again.
        self._kept.discard(fd)
        self._watched.pop(fd, None)
        try:
            self._epoll.unregister(fd)
        except OSError:
            # Closed here, and held open by a forked process: it would be reported for ever.
            self._renew()

    def _renew(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._epoll = select.epoll()
        self._loop.add_reader(self._epoll.fileno(), self._on_ready)
        for fd in self._kept:
            self._watched.pop(fd, None)
        self._kept.clear()
        for fd, wanted in self._watched.items():
            self._epoll.register(fd, wanted)

    def _run_due(self) -> None:
        self._starting = None
        self._act(pycurl.SOCKET_TIMEOUT, 0)
        self._collect()

    def _act(self, fd: int, events: int) -> None:
        try:
            self._multi.socket_action(fd, events)
        except pycurl.error as error:
            # What is wrong with one transfer, its own message says; with all of them, their deadlines.
            log.debug("libcurl: %s", error)

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
        self._kept.update(self._watched)
        self._renew()
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
