"""A destination that records what it gets, and misbehaves when told: for the demo and for tests.

A real HTTP/1.1 server on a thread of its own, so that clients meet real sockets, resets and silence.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import json
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from keepline.demo.behaviour import Answer, Fault, Plan, Received
from keepline.demo.server import Server

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from typing_extensions import Self

    from keepline.demo.http1 import Request

__all__ = ["Answer", "Fault", "Received", "RecordingDestination"]

log = logging.getLogger(__name__)


class RecordingDestination:
    """An HTTP server that keeps every request, and answers as it is told; 201 until it is told.

    Start and stop it once each, most easily by ``with``. Everything else may be called from any thread
    between the two, and what was recorded may be read afterwards, too. What isn't an HTTP/1.1 request is
    answered 400 and not recorded.

    Args:
        host: an IPv4 address of this machine to listen on.
        port: to listen on; 0 picks a free one.
        tls: a server's context, to speak HTTPS.

    Attributes:
        connections_open: as of now; one counts from its accept, before TLS, until it has ended.
        connections_peak: the most that were open at once.
        connections_total: how many were accepted.
        in_flight: requests that arrived whole and were neither answered nor given up yet.
        in_flight_peak: the most that were in flight at once.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._scheme = "http" if tls is None else "https"
        self._server = Server(self, (host, port), tls)
        # Guards everything below; notified at each change of it.
        self._changed = threading.Condition()
        self._plan = Plan()
        self._numbers = itertools.count(1)
        self._keys = itertools.count()
        self._received: dict[int, Received] = {}
        self._acknowledged: list[bytes] = []
        self._events: list[dict[str, Any]] = []
        self.connections_open = 0
        self.connections_peak = 0
        self.connections_total = 0
        self.in_flight = 0
        self.in_flight_peak = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, and serve from a thread of its own; an OSError when the address can't be listened on."""
        self._server.start()

    def stop(self) -> None:
        """Reset every connection, stop listening, end the thread. Does nothing when not started."""
        self._server.stop()

    def down(self) -> None:
        """Stop listening and reset every connection; connects are refused until `up`."""
        self._server.down()

    def up(self) -> None:
        """Listen on the same port again. Does nothing when already up."""
        self._server.up()

    @property
    def url(self) -> str:
        """From `start` on, for example ``http://127.0.0.1:38211``; stays the same over `down` and `up`."""
        host, port = self._server.address
        return f"{self._scheme}://{host}:{port}"

    def answer(
        self,
        status: int = 201,
        *,
        delay: float = 0.0,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        times: int | None = None,
    ) -> None:
        """Answer so from now on, to requests that haven't arrived yet.

        Args:
            status: the HTTP status.
            delay: seconds before the answer; other requests aren't held up.
            headers: sent as they are.
            body: sent as it is.
            times: for how many requests; after them, what was set before goes on. None for all.
        """
        with self._changed:
            self._plan.set(Answer(status, delay, tuple(headers), body), times)

    def answer_with(self, choose: Callable[[Received], Answer | Fault]) -> None:
        """Decide for each request.

        Args:
            choose: called in the server's thread, which does nothing else meanwhile; may call anything
                but `start`, `stop`, `down` and `up`. What it raises is logged and answered 500.
        """
        with self._changed:
            self._plan.set(choose, None)

    def fault(self, kind: Fault, times: int | None = None) -> None:
        """Misbehave so from now on.

        Args:
            kind: how.
            times: as for `answer`; where connections are closed on accept, for how many of them.
        """
        with self._changed:
            self._plan.set(kind, times)

    @property
    def received(self) -> list[Received]:
        """Every request that arrived whole, in order; one in flight has no status yet."""
        with self._changed:
            return list(self._received.values())

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON objects among the bodies of requests answered 2xx, in the order of the answers."""
        with self._changed:
            for body in self._acknowledged:
                with contextlib.suppress(ValueError):
                    if isinstance(event := json.loads(body), dict):
                        self._events.append(event)
            self._acknowledged.clear()
            return list(self._events)

    def clear(self) -> None:
        """Forget all requests and events, and count anew: peaks from what is now, the total from 0."""
        with self._changed:
            self._received.clear()
            self._acknowledged.clear()
            self._events.clear()
            self.connections_total = 0
            self.connections_peak = self.connections_open
            self.in_flight_peak = self.in_flight
            self._changed.notify_all()

    def wait_for(self, predicate: Callable[[RecordingDestination], bool], timeout: float) -> None:
        """Wait until something is so.

        Args:
            predicate: asked with this destination, at first and at each change of what it knows; the
                server waits meanwhile.
            timeout: seconds.

        Raises:
            TimeoutError: it didn't become so; says what there was.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: predicate(self), timeout):
                raise TimeoutError(f"not as waited for within {timeout} s: {self!r}")

    def __repr__(self) -> str:
        statuses = collections.Counter(str(one.status or "no answer") for one in self.received)
        return (
            f"<RecordingDestination {self.url}: requests {dict(statuses)}, {self.in_flight} in flight; "
            f"{len(self.events)} events; connections {self.connections_open} open, "
            f"{self.connections_peak} at most, {self.connections_total} in all>"
        )

    # The server's `Desk`, for it alone.

    def opened(self) -> int | None:
        """See `Desk`."""
        with self._changed:
            self._changed.notify_all()
            self.connections_total += 1
            if self._plan.peek() is Fault.CLOSE_ON_ACCEPT:
                self._plan.take()
                return None
            self.connections_open += 1
            self.connections_peak = max(self.connections_peak, self.connections_open)
            return next(self._numbers)

    def arrived(self, connection: int, request: Request) -> tuple[int, Answer | Fault]:
        """See `Desk`."""
        one = Received(
            time.monotonic(), request.method, request.path, request.headers, request.body, None, connection
        )
        with self._changed:
            self._changed.notify_all()
            key = next(self._keys)
            self._received[key] = one
            self.in_flight += 1
            self.in_flight_peak = max(self.in_flight_peak, self.in_flight)
            choice = self._plan.take()
        if isinstance(choice, (Answer, Fault)):
            return key, choice
        try:
            return key, choice(one)
        except Exception:
            log.exception("what answer_with was given has failed; the request is answered 500")
            return key, Answer(500)

    def answering(self, key: int, status: int) -> None:
        """See `Desk`."""
        with self._changed:
            self._changed.notify_all()
            self.in_flight -= 1
            one = self._received.get(key)
            if one is not None:  # else cleared meanwhile
                self._received[key] = dataclasses.replace(one, status=status)
                if 200 <= status < 300:
                    self._acknowledged.append(one.body)

    def given_up(self) -> None:
        """See `Desk`."""
        with self._changed:
            self._changed.notify_all()
            self.in_flight -= 1

    def closed(self) -> None:
        """See `Desk`."""
        with self._changed:
            self._changed.notify_all()
            self.connections_open -= 1
