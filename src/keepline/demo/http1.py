"""As much of HTTP/1.1 as a recording destination needs, without I/O: requests in, answers out."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from http import HTTPStatus

MAX_HEAD_BYTES = 65_536
BODILESS = frozenset({204, 304})
STATUSES = frozenset(HTTPStatus)
HEX_DIGITS = b"0123456789abcdefABCDEF"


class BadRequest(ValueError):
    """The peer sent what isn't an HTTP/1.1 request, or a body that isn't what its headers say."""


@dataclass(frozen=True, slots=True)
class Request:
    """One whole request.

    Args:
        method: as sent, for example ``POST``.
        path: the request target as sent, with its query.
        headers: by lower-case name; values of a repeated header are joined by ``", "``.
        body: without its transfer and content encodings.
        keep_alive: whether the peer will send more on this connection.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class _Head:
    method: str
    path: str
    headers: dict[str, str]
    keep_alive: bool
    length: int | None  # None: chunked


class RequestParser:
    """Finds the requests in what one connection receives, however it is cut into pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._chunks = bytearray()
        self._owes_continue = False

    def feed(self, data: bytes) -> None:
        """Take in the next bytes of the connection."""
        self._buffer += data

    def next_request(self) -> Request | None:
        """Take out the next request that is whole.

        Returns:
            None when more bytes are needed.

        Raises:
            BadRequest: the connection can't be read any further.
        """
        if self._head is None:
            self._head = self._take_head()
            if self._head is None:
                return None
            self._owes_continue = self._head.headers.get("expect", "").lower() == "100-continue"
        head = self._head
        body = self._take_chunked() if head.length is None else self._take(head.length)
        if body is None:
            return None
        self._head = None
        self._owes_continue = False
        return Request(head.method, head.path, head.headers, _decoded(head, body), head.keep_alive)

    def take_continue(self) -> bool:
        """Whether ``100 Continue`` is to be sent now; True at most once for each request."""
        owed, self._owes_continue = self._owes_continue, False
        return owed

    def _take(self, size: int) -> bytes | None:
        if len(self._buffer) < size:
            return None
        taken = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return taken

    def _take_head(self) -> _Head | None:
        end = self._buffer.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
        if end < 0:
            if len(self._buffer) >= MAX_HEAD_BYTES:
                raise BadRequest(f"the head doesn't end within {MAX_HEAD_BYTES} bytes")
            return None
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise BadRequest(f"not a request line: {first[:80]!r}")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise BadRequest(f"not a header: {line[:80]!r}")
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        connection = headers.get("connection", "").lower()
        keep_alive = "close" not in connection and (words[2] != "HTTP/1.0" or "keep-alive" in connection)
        return _Head(words[0], words[1], headers, keep_alive, _body_length(headers))

    def _take_chunked(self) -> bytes | None:
        while (size_at := self._buffer.find(b"\r\n", 0, MAX_HEAD_BYTES)) >= 0:
            digits = self._buffer[:size_at].partition(b";")[0].strip()
            if not digits or digits.strip(HEX_DIGITS):
                raise BadRequest("a chunk doesn't begin with its size")
            size = int(digits, 16)
            if size == 0:
                return self._take_trailer(size_at + 2)
            end = size_at + 2 + size
            if len(self._buffer) < end + 2:
                return None
            self._chunks += memoryview(self._buffer)[size_at + 2 : end]
            del self._buffer[: end + 2]
        if len(self._buffer) >= MAX_HEAD_BYTES:
            raise BadRequest("a chunk doesn't begin with its size")
        return None

    def _take_trailer(self, start: int) -> bytes | None:
        # It ends with an empty line, which is all of it when it has no fields: so the search begins with
        # the CRLF before it.
        end = self._buffer.find(b"\r\n\r\n", start - 2)
        if end < 0:
            return None
        del self._buffer[: end + 4]
        body, self._chunks = bytes(self._chunks), bytearray()
        return body


def _body_length(headers: dict[str, str]) -> int | None:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return None
    length = headers.get("content-length", "0")
    if not length.isdecimal():
        raise BadRequest(f"not a Content-Length: {length[:80]!r}")
    return int(length)


def _decoded(head: _Head, body: bytes) -> bytes:
    if head.headers.get("content-encoding", "").lower() != "gzip":
        return body
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error) as error:
        raise BadRequest(f"the body isn't gzip: {error}") from None


def answer_bytes(
    status: int, headers: tuple[tuple[str, str], ...] = (), body: bytes = b"", *, keep_alive: bool = True
) -> bytes:
    """One whole answer, ready to be sent.

    Args:
        status: 200 to 599; need not be one that HTTP knows.
        headers: sent as they are, before those that are added; a ``Content-Length`` among them replaces ours.
        body: left out where HTTP allows none (204 and 304).
        keep_alive: False adds ``Connection: close``.
    """
    lines = [f"HTTP/1.1 {status} {_phrase(status)}", *(f"{name}: {value}" for name, value in headers)]
    if status in BODILESS:
        body = b""
    elif all(name.lower() != "content-length" for name, _ in headers):
        lines.append(f"Content-Length: {len(body)}")
    if not keep_alive:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in STATUSES else "Unknown"
