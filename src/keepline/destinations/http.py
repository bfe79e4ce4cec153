"""Native delivery over HTTP, for the client's ``http``, ``async_http`` and ``datadog`` transports."""

from __future__ import annotations

from pathlib import Path

import pycurl
from isal import igzip

from keepline.destinations.base import Answer, Done, Try
from keepline.destinations.curl import CurlLoop
from keepline.destinations.endpoint import Endpoint
from keepline.destinations.masking import KEPT_BYTES, excerpt

# Nothing that is read and thrown away may keep the relay busy for long.
_LONGEST_BODY = 8 * 1024 * 1024
_LONGEST_CONNECT_MS = 10_000
_GZIP_LEVEL = 1
_LARGE = 64 * 1024
_PLAIN = {status: Answer(status=status) for status in range(200, 300)}
"""Nobody looks into the body of an answer that all went well, so one object stands for them all."""

_TELLS_RETRY_AFTER = hasattr(pycurl, "RETRY_AFTER")  # pycurl 7.46 and earlier have no name for it


class HttpDestination:
    """Posts events to one endpoint, over a bounded number of kept connections.

    Args:
        endpoint: where to.
        curl: the loop's libcurl.
        done: called with the event's id and the answer to each try.
        capacity: most requests, and so connections, at once.
    """

    def __init__(self, endpoint: Endpoint, curl: CurlLoop, done: Done, *, capacity: int) -> None:
        self.capacity = capacity
        self.timeout = endpoint.timeout
        self._endpoint = endpoint
        self._curl = curl
        self._done = done
        self._requests: list[_Request] = []
        self._idle: list[_Request] = []

    def start(self, one: Try) -> None:
        """Post an event."""
        if not self._idle:
            self._requests.append(_Request(self._endpoint, self._curl, self._done, self._idle))
            self._idle.append(self._requests[-1])
        self._idle.pop().start(one)

    def close(self, timeout: float) -> None:
        """Drop what is under way."""
        for request in self._requests:
            request.close()
        self._requests.clear()
        self._idle.clear()


class _Request:
    """One easy handle, used for one request after another."""

    def __init__(self, endpoint: Endpoint, curl: CurlLoop, done: Done, idle: list[_Request]) -> None:
        self._endpoint = endpoint
        self._curl = curl
        self._done = done
        self._idle = idle
        self._event = 0
        self._milliseconds = 0
        self._size = 0
        self._again = False
        self._body = bytearray()
        self._received = 0
        self._asked_for = ""
        self._handle = handle = pycurl.Curl()
        handle.setopt(pycurl.URL, endpoint.url)
        handle.setopt(pycurl.POST, 1)
        handle.setopt(pycurl.NOSIGNAL, 1)
        handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        handle.setopt(pycurl.FOLLOWLOCATION, 0)
        handle.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        # An empty one keeps libcurl from looking for a proxy itself, which it does by other rules.
        handle.setopt(pycurl.PROXY, endpoint.proxy)
        # An empty Expect header spares the round trip that libcurl makes for larger bodies.
        handle.setopt(pycurl.HTTPHEADER, [*map(_header, endpoint.headers.items()), b"Expect:"])
        handle.setopt(pycurl.WRITEFUNCTION, self._on_body)
        if not _TELLS_RETRY_AFTER:
            handle.setopt(pycurl.HEADERFUNCTION, self._on_header)
        handle.setopt(pycurl.TCP_NODELAY, 1)
        handle.setopt(pycurl.SOCKOPTFUNCTION, curl.watch)
        if not endpoint.verify:
            handle.setopt(pycurl.SSL_VERIFYPEER, 0)
            handle.setopt(pycurl.SSL_VERIFYHOST, 0)
        if Path(endpoint.authorities).is_dir():
            handle.setopt(pycurl.CAPATH, endpoint.authorities)
        else:
            handle.setopt(pycurl.CAINFO, endpoint.authorities)
        if endpoint.certificate:
            handle.setopt(pycurl.SSLCERT, endpoint.certificate)
            handle.setopt(pycurl.SSLKEY, endpoint.certificate_key or endpoint.certificate)

    def start(self, one: Try) -> None:
        """Post an event."""
        self._asked_for = ""
        self._event = one.event
        body = igzip.compress(one.body, compresslevel=_GZIP_LEVEL) if self._endpoint.gzip else one.body
        self._size = len(body)
        self._handle.setopt(pycurl.POSTFIELDS, body)
        self._limit(int(one.deadline * 1000))
        self._curl.start(self._handle, self._size, self._finished)

    def close(self) -> None:
        """Drop what is under way."""
        self._curl.cancel(self._handle)
        self._handle.close()

    def _limit(self, milliseconds: int) -> None:
        milliseconds = max(milliseconds, 1)
        if milliseconds != self._milliseconds:
            self._milliseconds = milliseconds
            self._handle.setopt(pycurl.TIMEOUT_MS, milliseconds)
            self._handle.setopt(pycurl.CONNECTTIMEOUT_MS, min(milliseconds, _LONGEST_CONNECT_MS))

    def _finished(self, code: int, message: str) -> None:
        status = self._handle.getinfo(pycurl.RESPONSE_CODE)
        answer = _PLAIN.get(status) if code == 0 else None
        if answer is None:
            if self._died_while_kept(status, code):
                self._start_again()
                return
            answer = self._answer(status, code, message)
        if self._again:
            self._again = False
            self._handle.setopt(pycurl.FRESH_CONNECT, 0)
        if self._received:
            self._received = 0
            self._body.clear()
        if self._size > _LARGE:
            # libcurl holds on to it until there is another.
            self._handle.setopt(pycurl.POSTFIELDS, b"")
        self._idle.append(self)
        self._done(self._event, answer)

    def _died_while_kept(self, status: int, code: int) -> bool:
        # A server may close many kept connections at once. libcurl looks for dead ones only now and then, and
        # gives up when it has met a few of them.
        sent = code != pycurl.E_SEND_ERROR or status or self._again
        return not sent and self._handle.getinfo(pycurl.NUM_CONNECTS) == 0

    def _start_again(self) -> None:
        self._again = True
        self._limit(self._milliseconds - int(self._handle.getinfo(pycurl.TOTAL_TIME) * 1000))
        self._handle.setopt(pycurl.FRESH_CONNECT, 1)
        self._curl.start(self._handle, self._size, self._finished)

    def _answer(self, status: int, code: int, message: str) -> Answer:
        # A 2xx counts once it is there as a whole; a destination that dies in the middle of it may not have
        # the event. Anything else counts from its status on: a server that refuses a large body often resets
        # the connection while that is still being sent.
        secrets = self._endpoint.secrets
        if status >= 300:
            text = bytes(self._body).decode(errors="replace")
            return Answer(status=status, retry_after=self._retry_after(), excerpt=excerpt(text, secrets))
        what = message or f"libcurl error {code}"
        if self._received > _LONGEST_BODY:
            what = "it doesn't end"
        if status:
            what = f"HTTP {status}, but the answer broke off: {what}"
        return Answer(error=excerpt(what, secrets), timed_out=code == pycurl.E_OPERATION_TIMEDOUT)

    def _on_header(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"retry-after":
            self._asked_for = value.strip().decode("latin-1")

    def _retry_after(self) -> str:
        if not _TELLS_RETRY_AFTER:
            return self._asked_for
        # libcurl reads both seconds and dates, and gives 0 for none and for what makes no sense.
        seconds = self._handle.getinfo(pycurl.RETRY_AFTER)
        return str(seconds) if seconds > 0 else ""

    def _on_body(self, data: bytes) -> int:
        self._received += len(data)
        self._body += data[: KEPT_BYTES - len(self._body)]
        return len(data) if self._received <= _LONGEST_BODY else -1


def _header(item: tuple[str, str]) -> bytes:
    name, value = item
    # libcurl takes a header without a value for one to leave out, unless it ends like this.
    text = f"{name}: {value}" if value else f"{name};"
    return text.encode("latin-1", "replace").replace(b"\r", b" ").replace(b"\n", b" ")
