"""The sockets and the thread of the recording destination: listens, accepts, and ends all of it again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

from keepline.demo.connection import Connection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Coroutine

    from keepline.demo.connection import Desk

BACKLOG = 1024
BOUND_SECONDS = 10.0  # on what needs milliseconds
ACCEPT_AGAIN_SECONDS = 0.1

log = logging.getLogger(__name__)


class Server:
    """Serves connections from a thread of its own. May be started once.

    Args:
        desk: whom the connections tell and ask.
        address: the IPv4 address and port to listen on; port 0 picks a free one.
        tls: a server's context, to speak HTTPS.

    Attributes:
        address: as given; from `start` on with the port that is listened on.
    """

    def __init__(self, desk: Desk, address: tuple[str, int], tls: ssl.SSLContext | None) -> None:
        self.address = address
        self._desk = desk
        self._tls = tls
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._reserved: socket.socket | None = None
        # Touched by the thread alone.
        self._listener: socket.socket | None = None
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()

    def start(self) -> None:
        """Listen and serve.

        Raises:
            OSError: the address can't be listened on.
        """
        # Bound but never listening, this socket keeps the port ours while we are down. Else a client that
        # goes on trying would one day be given this very port as its own, and be connected to itself.
        self._reserved = socket.socket()
        try:
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._reserved.bind(self.address)
            self.address = self._reserved.getsockname()
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._serve, args=(self._loop,), name="keepline-destination", daemon=True
            )
            self._thread.start()
            self.up()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Reset every connection, stop listening, end the thread. Does nothing when not started."""
        if self._loop is not None and self._thread is not None:
            # Connections before the loop: it has to live for their sockets to be closed.
            self.down()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(BOUND_SECONDS)
            self._loop = self._thread = None
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def down(self) -> None:
        """Stop listening and reset every connection. Does nothing more when already down."""
        self._run(self._go_down())

    def up(self) -> None:
        """Listen. Does nothing when already up.

        Raises:
            OSError: the address can't be listened on.
        """
        self._run(self._go_up())

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        finally:
            loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        with contextlib.closing(work):
            if self._loop is None:
                raise RuntimeError("the destination isn't started, or was stopped")
            if self._thread is threading.current_thread():
                raise RuntimeError("start, stop, down and up can't be called from the server's own thread")
            asyncio.run_coroutine_threadsafe(work, self._loop).result(BOUND_SECONDS)

    async def _go_up(self) -> None:
        if self._listener is None:
            listener = socket.create_server(self.address, backlog=BACKLOG, reuse_port=True)
            listener.setblocking(False)
            self._listener = listener
            self._watch(listener)

    async def _go_down(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            # A process forked from this one may hold the socket, too: closing ours wouldn't end it.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connection in list(self._connections):
            connection.reset()
        while self._connections:
            self._empty.clear()
            await self._empty.wait()

    def _watch(self, listener: socket.socket) -> None:
        if listener is self._listener and self._loop is not None:
            self._loop.add_reader(listener, self._accept, self._loop, listener)

    def _accept(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # Out of descriptors, most likely. The listener stays readable; watching it on would spin.
            log.warning("can't accept a connection, trying again in %s s: %s", ACCEPT_AGAIN_SECONDS, error)
            loop.remove_reader(listener)
            loop.call_later(ACCEPT_AGAIN_SECONDS, self._watch, listener)
            return
        sock.setblocking(False)
        number = self._desk.opened()
        if number is None:
            sock.close()
            return
        connection = Connection(self._desk, number, sock, loop, self._forget)
        self._connections.add(connection)
        connection.open(self._tls)

    def _forget(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._desk.closed()
            if not self._connections:
                self._empty.set()
