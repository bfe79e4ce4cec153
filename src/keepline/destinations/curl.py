"""libcurl on an event loop: requests side by side on one thread, with connections kept alive.

Source: https://curl.se/libcurl/c/libcurl-multi.html, "multi_socket".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pycurl

from keepline.errors import RelayError

Finished = Callable[[int, str], None]
"""Called once for a transfer, with libcurl's code (0: it went through) and its message."""


class CurlLoop:
    """Runs libcurl's transfers on an asyncio loop; it wakes for sockets and timers only.

    Args:
        loop: the loop of the thread that uses it.
        connections: most idle connections that are kept, over all hosts.

    Raises:
        RelayError: libcurl can't begin.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, connections: int) -> None:
        self._loop = loop
        self._finished: dict[pycurl.Curl, Finished] = {}
        self._watched: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        try:
            self._multi = pycurl.CurlMulti()
        except pycurl.error as error:
            raise RelayError(
                f"can't set up libcurl: {error}; raise the limit of open files of this process"
            ) from error
        self._multi.setopt(pycurl.M_MAXCONNECTS, connections)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)

    def start(self, handle: pycurl.Curl, finished: Finished) -> None:
        """Begin a transfer.

        Args:
            handle: an easy handle, ready to go.
            finished: called on the loop when it is over, and not before this has returned.
        """
        self._finished[handle] = finished
        self._multi.add_handle(handle)

    def cancel(self, handle: pycurl.Curl) -> None:
        """End a transfer without a call to ``finished``."""
        if self._finished.pop(handle, None) is not None:
            self._multi.remove_handle(handle)

    def close(self) -> None:
        """Close every connection. Transfers under way are not answered."""
        for handle in list(self._finished):
            self.cancel(handle)
        # libcurl still calls back while it closes, to have its sockets forgotten.
        self._closed = True
        self._multi.close()
        for fd in list(self._watched):
            self._watch(fd, 0)
        if self._timer is not None:
            self._timer.cancel()

    def _on_socket(self, what: int, fd: int, multi: object, data: object) -> None:
        self._watch(fd, 0 if what == pycurl.POLL_REMOVE else what)

    def _watch(self, fd: int, wanted: int) -> None:
        had = self._watched.get(fd, 0)
        if wanted:
            self._watched[fd] = wanted
        else:
            self._watched.pop(fd, None)
        changed = wanted ^ had
        if changed & pycurl.POLL_IN:
            if wanted & pycurl.POLL_IN:
                self._loop.add_reader(fd, self._act, fd, pycurl.CSELECT_IN)
            else:
                self._loop.remove_reader(fd)
        if changed & pycurl.POLL_OUT:
            if wanted & pycurl.POLL_OUT:
                self._loop.add_writer(fd, self._act, fd, pycurl.CSELECT_OUT)
            else:
                self._loop.remove_writer(fd)

    def _on_timer(self, milliseconds: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if milliseconds >= 0 and not self._closed:
            self._timer = self._loop.call_later(milliseconds / 1000, self._act, pycurl.SOCKET_TIMEOUT, 0)

    def _act(self, fd: int, events: int) -> None:
        # What is wrong with one transfer, its own message says; with all of them, their deadlines.
        with suppress(pycurl.error):
            self._multi.socket_action(fd, events)
        while True:
            queued, succeeded, failed = self._multi.info_read()
            for handle in succeeded:
                self._finish(handle, 0, "")
            for handle, code, message in failed:
                self._finish(handle, code, message)
            if not queued:
                return

    def _finish(self, handle: pycurl.Curl, code: int, message: str) -> None:
        self._multi.remove_handle(handle)
        finished = self._finished.pop(handle, None)
        if finished is not None:
            finished(code, message)
