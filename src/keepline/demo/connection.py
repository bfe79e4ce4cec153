"""One connection of the recording destination: reads requests, and answers or misbehaves as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from typing import TYPE_CHECKING, Protocol, cast

from keepline.demo.behaviour import Answer, Fault
from keepline.demo.http1 import BadRequest, Request, RequestParser, answer_bytes

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

DRIP_SECONDS = 0.2
CHUNKED_HEAD = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n"
HALF_BYTES = 1000
ENDLESS_CHUNK = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 s


class Desk(Protocol):
    """What the server and its connections tell and ask; all from the server's thread."""

    def opened(self) -> int | None:
        """Note an accepted connection: its number, counted from 1, or None to close it at once."""

    def arrived(self, connection: int, request: Request) -> tuple[int, Answer | Fault]:
        """Note a whole request: its key, and what to do about it."""

    def answering(self, key: int, status: int) -> None:
        """Note that the request's whole answer is about to be sent, and its handling over."""

    def given_up(self) -> None:
        """Note that the connection of a request that had arrived ended before a whole answer."""

    def closed(self) -> None:
        """Note that a connection that was numbered is gone."""


class Connection(asyncio.Protocol):
    """Serves one accepted socket, one request at a time, until the peer or the destination ends it.

    Args:
        desk: whom to tell and ask.
        number: of this connection.
        sock: the accepted socket; from here on it is this connection's to close.
        loop: that serves it.
        gone: called with this connection, at least once, when it has ended.
    """

    def __init__(
        self,
        desk: Desk,
        number: int,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        gone: Callable[[Connection], None],
    ) -> None:
        self._desk = desk
        self._number = number
        self._sock = sock
        self._loop = loop
        self._gone = gone
        self._parser = RequestParser()
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._endless = False
        self._paused = False

    def open(self, tls: ssl.SSLContext | None) -> None:
        """Begin to serve, after the TLS handshake if there is one."""
        connecting = self._loop.connect_accepted_socket(lambda: self, self._sock, ssl=tls)
        self._opening = self._loop.create_task(connecting)
        self._opening.add_done_callback(self._opened)

    def reset(self) -> None:
        """End the connection with an RST, whatever it is doing."""
        with contextlib.suppress(OSError):  # the peer may have ended it first
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
        if self._transport is not None:
            self._transport.abort()
        elif self._opening is not None:
            self._opening.cancel()

    def _opened(self, opening: asyncio.Task[object]) -> None:
        if opening.cancelled() or opening.exception() is not None:
            # Cancelled before its first step, nobody but us has the socket.
            self._sock.close()
            self._gone(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up what was being handled."""
        if self._timer is not None:
            self._timer.cancel()
        if self._busy:
            self._busy = False
            self._desk.given_up()
        self._gone(self)

    def pause_writing(self) -> None:
        """Stop an endless body until the peer has read."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on with an endless body."""
        self._paused = False
        if self._endless:
            self._pour()

    def data_received(self, data: bytes) -> None:
        """Take in what arrived, and handle the requests that it completes."""
        self._parser.feed(data)
        self._serve()

    def _serve(self) -> None:
        transport = self._open_transport()
        while not self._busy and not transport.is_closing():
            try:
                request = self._parser.next_request()
            except BadRequest as error:
                transport.write(answer_bytes(400, body=str(error).encode(), keep_alive=False))
                transport.close()
                return
            if request is None:
                if self._parser.take_continue():
                    transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            self._handle(request)

    def _handle(self, request: Request) -> None:
        self._busy = True
        key, choice = self._desk.arrived(self._number, request)
        if isinstance(choice, Fault):
            self._misbehave(choice)
        elif choice.delay > 0:
            self._timer = self._loop.call_later(choice.delay, self._answer_late, key, choice, request)
        else:
            self._answer(key, choice, request)

    def _answer_late(self, key: int, answer: Answer, request: Request) -> None:
        self._answer(key, answer, request)
        self._serve()  # what the peer has sent behind it in the meantime

    def _answer(self, key: int, answer: Answer, request: Request) -> None:
        transport = self._open_transport()
        # Noted first: a client that has seen the answer must find its request noted.
        self._desk.answering(key, answer.status)
        self._busy = False
        transport.write(
            answer_bytes(answer.status, answer.headers, answer.body, keep_alive=request.keep_alive)
        )
        if not request.keep_alive:
            transport.close()

    def _misbehave(self, fault: Fault) -> None:
        transport = self._open_transport()
        if fault is Fault.RESET_BEFORE_ANSWER:
            self.reset()
        elif fault in (Fault.CLOSE_ON_ACCEPT, Fault.CLOSE_BEFORE_ANSWER):
            transport.close()
        elif fault is Fault.RESET_MID_BODY:
            transport.write(answer_bytes(201, body=b" " * HALF_BYTES * 2)[:-HALF_BYTES])
            self.reset()
        elif fault is Fault.SLOW_DRIP:
            self._drip(itertools.chain(CHUNKED_HEAD, itertools.cycle(b"1\r\n \r\n")))
        elif fault is Fault.ENDLESS_BODY:
            transport.write(CHUNKED_HEAD)
            self._endless = True
            self._pour()
        elif fault is Fault.GARBAGE:
            transport.write(b"\x00\xff this isn't HTTP \x00\r\n\r\n")
            transport.close()
        # Fault.NO_ANSWER: the request stays in flight until the peer or the destination ends the connection.

    def _drip(self, drops: Iterator[int]) -> None:
        self._open_transport().write(bytes([next(drops)]))
        self._timer = self._loop.call_later(DRIP_SECONDS, self._drip, drops)

    def _pour(self) -> None:
        transport = self._open_transport()
        if not self._paused and not transport.is_closing():
            transport.write(ENDLESS_CHUNK)
        if not self._paused and not transport.is_closing():
            # By way of the loop, so that a peer that reads fast doesn't keep it from the others.
            self._loop.call_soon(self._pour)

    def _open_transport(self) -> asyncio.Transport:
        assert self._transport is not None, "asyncio gives the transport before anything else"
        return self._transport
