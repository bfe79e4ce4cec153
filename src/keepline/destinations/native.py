"""The endpoints of native destinations, read from the client's own configuration objects.

Importing this imports the whole client.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urljoin

import certifi
import requests
from openlineage.client.transport import AsyncHttpTransport, DatadogTransport
from openlineage.client.transport.datadog import SITE_MAPPING, DatadogConfig
from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport, TokenProvider
from requests.structures import CaseInsensitiveDict
from requests.utils import get_environ_proxies, select_proxy

from keepline.destinations.endpoint import Endpoint
from keepline.destinations.legs import ParsedLeg
from keepline.destinations.masking import secrets_in_url, secrets_of

_NO_TIMEOUT = 60.0
"""Seconds for a leg whose ``timeout`` is null, which to the client means none; nothing here is unbounded."""


def endpoint_of(parsed: ParsedLeg) -> Endpoint | None:
    """The endpoint of a leg that is delivered natively; ``None`` for every other.

    A leg whose key is fetched from somewhere (``jwt``, ``oauth2``, a class of the user's) is left to the
    client's own transport, because fetching blocks; so is an address that the client couldn't use, because
    it knows best what to say of it.

    Args:
        parsed: the leg.
    """
    config: Any = parsed.config
    if parsed.transport_class is DatadogTransport and isinstance(config, DatadogConfig):
        # The settings that the client's own transport hands on (client/transport/datadog.py).
        config = HttpConfig(
            url=SITE_MAPPING.get(config.site, config.site),
            timeout=config.timeout,
            auth=ApiKeyTokenProvider({"apiKey": config.apiKey}),
        )
        return _endpoint(parsed, config, gzip=True)
    if parsed.transport_class in (HttpTransport, AsyncHttpTransport):
        return _endpoint(parsed, config, gzip=bool(config.compression))
    return None


def _endpoint(parsed: ParsedLeg, config: Any, *, gzip: bool) -> Endpoint | None:
    if type(config.auth) not in (TokenProvider, ApiKeyTokenProvider):
        return None
    bearer = config.auth.get_bearer()
    # As requests merges them: a custom header replaces another of its name, however it is written.
    headers = CaseInsensitiveDict({"User-Agent": "keepline", "Content-Type": "application/json"})
    headers.update({"Authorization": bearer} if bearer else {})
    headers.update({str(name): str(value) for name, value in (config.custom_headers or {}).items()})
    headers.update({"Content-Encoding": "gzip"} if gzip else {})
    try:
        url = requests.Request("POST", urljoin(config.url.strip(), config.endpoint)).prepare().url or ""
    except requests.RequestException:
        return None
    proxy = select_proxy(url, get_environ_proxies(url, no_proxy=None)) or ""
    # Only newer clients have it.
    tls = getattr(config, "ssl_context", None)
    trusted = getattr(tls, "ca_cert_path", None) or (config.verify if isinstance(config.verify, str) else "")
    # The key may stand in the environment and not in the leg.
    key = {"key": (bearer or "").rpartition(" ")[2]}
    return Endpoint(
        url=url,
        headers=dict(headers),
        timeout=float(config.timeout or _NO_TIMEOUT),
        gzip=gzip,
        verify=bool(trusted or config.verify),
        authorities=trusted or _authorities(),
        certificate=getattr(tls, "client_cert_path", None) or "",
        certificate_key=getattr(tls, "client_key_path", None) or "",
        proxy=proxy,
        secrets=secrets_of(parsed.leg.params) | secrets_of(key) | secrets_in_url(proxy),
    )


def _authorities() -> str:
    """The certificates that ``requests`` would trust, which the client uses."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        path = os.environ.get(variable)
        if path:
            return path
    return certifi.where()
