"""Delivery over HTTP, for the client's ``http``, ``async_http`` and ``datadog`` transports.

Address, headers, key, compression and certificates are taken from the client's own configuration objects.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import urljoin

import certifi
import pycurl
from isal import igzip
from openlineage.client.transport.datadog import SITE_MAPPING, DatadogConfig
from openlineage.client.transport.http import ApiKeyTokenProvider, TokenProvider

from keepline.destinations.base import Answer, Done, Try
from keepline.destinations.curl import CurlLoop
from keepline.destinations.legs import ParsedLeg, mask, secrets_of

_BODY_BYTES = 64 * 1024
_EXCERPT_CHARACTERS = 500
_LONGEST_CONNECT_MS = 10_000
_GZIP_LEVEL = 1


@dataclass(frozen=True)
class Endpoint:
    """Where to post to, and how.

    Args:
        url: whole address.
        headers: name to value; may hold a key: never print it.
        timeout: of one request, seconds.
        gzip: whether bodies are compressed.
        verify: whether the server's certificate is checked.
        authorities: file of certificates to trust; ``None`` for the usual ones.
        certificate: file of a client certificate, if any.
        certificate_key: file of its key, where that is another one.
    """

    url: str
    headers: Mapping[str, str]
    timeout: float
    gzip: bool
    verify: bool = True
    authorities: str | None = None
    certificate: str | None = None
    certificate_key: str | None = None

    def __repr__(self) -> str:
        return f"Endpoint(timeout={self.timeout}, gzip={self.gzip})"


def endpoint_of(parsed: ParsedLeg) -> Endpoint | None:
    """The endpoint of a leg that is delivered natively; ``None`` for every other.

    A leg whose key is fetched from somewhere (``jwt``, ``oauth2``, a class of the user's) is left to the
    client's own transport, because fetching blocks.

    Args:
        parsed: the leg.
    """
    config = parsed.config
    if parsed.leg.kind == "datadog" and isinstance(config, DatadogConfig):
        return Endpoint(
            url=urljoin(SITE_MAPPING.get(config.site, config.site), "api/v1/lineage"),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {config.apiKey}"},
            timeout=float(config.timeout),
            gzip=True,
        )
    if parsed.leg.kind not in ("http", "async_http"):
        return None
    auth = config.auth  # type: ignore[attr-defined]
    if type(auth) not in (TokenProvider, ApiKeyTokenProvider):
        return None
    headers = {"Content-Type": "application/json"}
    bearer = auth.get_bearer()
    if bearer:
        headers["Authorization"] = bearer
    headers.update({str(k): str(v) for k, v in (getattr(config, "custom_headers", None) or {}).items()})
    ssl_context = getattr(config, "ssl_context", None)
    return Endpoint(
        url=urljoin(config.url.strip(), config.endpoint),  # type: ignore[attr-defined]
        headers=headers,
        timeout=float(config.timeout),  # type: ignore[attr-defined]
        gzip=bool(config.compression),  # type: ignore[attr-defined]
        verify=bool(config.verify),  # type: ignore[attr-defined]
        authorities=getattr(ssl_context, "ca_cert_path", None),
        certificate=getattr(ssl_context, "client_cert_path", None),
        certificate_key=getattr(ssl_context, "client_key_path", None),
    )


class HttpDestination:
    """Posts events to one endpoint, over a bounded number of kept connections.

    Args:
        endpoint: where to.
        curl: the loop's libcurl.
        done: called with the event's id and the answer to each try.
        capacity: most requests, and so connections, at once.
        secrets: texts that no answer may show.
    """

    def __init__(
        self, endpoint: Endpoint, curl: CurlLoop, done: Done, *, capacity: int, secrets: frozenset[str]
    ) -> None:
        self.capacity = capacity
        self.timeout = endpoint.timeout
        self._endpoint = endpoint
        self._curl = curl
        self._done = done
        self._secrets = secrets
        self._idle: list[_Request] = []
        self._busy: set[_Request] = set()

    def start(self, one: Try) -> None:
        """Post an event."""
        request = self._idle.pop() if self._idle else _Request(self._endpoint)
        self._busy.add(request)
        request.prepare(one)
        self._curl.start(request.handle, partial(self._finished, request))

    def _finished(self, request: _Request, handle: object, code: int, message: str) -> None:
        answer = request.answer(code, message, self._secrets)
        self._busy.discard(request)
        self._idle.append(request)
        self._done(request.event, answer)

    def close(self, timeout: float) -> None:
        """Drop what is under way."""
        for request in self._busy:
            self._curl.cancel(request.handle)
        for request in (*self._busy, *self._idle):
            request.handle.close()
        self._busy.clear()
        self._idle.clear()


def native(parsed: ParsedLeg, curl: CurlLoop, done: Done, *, capacity: int) -> HttpDestination | None:
    """The native destination of a leg, or ``None`` when it has to be driven."""
    endpoint = endpoint_of(parsed)
    if endpoint is None:
        return None
    secrets = secrets_of(parsed.leg.params)
    if isinstance(parsed.config, DatadogConfig):
        secrets |= {parsed.config.apiKey}
    return HttpDestination(endpoint, curl, done, capacity=capacity, secrets=secrets)


class _Request:
    """One easy handle, used for one request after another."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.event = 0
        self._body = bytearray()
        self._retry_after = ""
        self._gzip = endpoint.gzip
        self.handle = handle = pycurl.Curl()
        handle.setopt(pycurl.URL, endpoint.url)
        handle.setopt(pycurl.POST, 1)
        handle.setopt(pycurl.NOSIGNAL, 1)
        handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        handle.setopt(pycurl.FOLLOWLOCATION, 0)
        handle.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        headers = {"User-Agent": "keepline", **endpoint.headers}
        if endpoint.gzip:
            headers["Content-Encoding"] = "gzip"
        # An empty Expect header spares the round trip that libcurl makes for larger bodies.
        handle.setopt(pycurl.HTTPHEADER, [f"{k}: {v}" for k, v in headers.items()] + ["Expect:"])
        handle.setopt(pycurl.WRITEFUNCTION, self._on_body)
        handle.setopt(pycurl.HEADERFUNCTION, self._on_header)
        handle.setopt(pycurl.TCP_NODELAY, 1)
        if not endpoint.verify:
            handle.setopt(pycurl.SSL_VERIFYPEER, 0)
            handle.setopt(pycurl.SSL_VERIFYHOST, 0)
        handle.setopt(pycurl.CAINFO, endpoint.authorities or _authorities())
        if endpoint.certificate:
            handle.setopt(pycurl.SSLCERT, endpoint.certificate)
            handle.setopt(pycurl.SSLKEY, endpoint.certificate_key or endpoint.certificate)

    def prepare(self, one: Try) -> None:
        self.event = one.event
        self._body.clear()
        self._retry_after = ""
        body = igzip.compress(one.body, compresslevel=_GZIP_LEVEL) if self._gzip else one.body
        milliseconds = max(int(one.deadline * 1000), 1)
        self.handle.setopt(pycurl.POSTFIELDS, body)
        self.handle.setopt(pycurl.TIMEOUT_MS, milliseconds)
        self.handle.setopt(pycurl.CONNECTTIMEOUT_MS, min(milliseconds, _LONGEST_CONNECT_MS))

    def answer(self, code: int, message: str, secrets: frozenset[str]) -> Answer:
        status = self.handle.getinfo(pycurl.RESPONSE_CODE)
        if status >= 200:
            # The status line is the answer, also when what follows it is cut off or endless.
            text = bytes(self._body).decode(errors="replace")
            excerpt = mask(text, secrets)[:_EXCERPT_CHARACTERS]
            return Answer(status=status, retry_after=self._retry_after, excerpt=excerpt)
        return Answer(
            error=mask(message or pycurl.Curl().errstr() or f"libcurl error {code}", secrets),
            timed_out=code == pycurl.E_OPERATION_TIMEDOUT,
        )

    def _on_body(self, data: bytes) -> int:
        if len(self._body) + len(data) > _BODY_BYTES:
            return -1
        self._body += data
        return len(data)

    def _on_header(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"retry-after":
            self._retry_after = value.strip().decode("latin-1")


def _authorities() -> str:
    """The certificates that ``requests`` would trust, which the client uses."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        path = os.environ.get(variable)
        if path:
            return path
    return certifi.where()
