"""What may be shown of what a destination says: one line, printable, short, and without secrets.

Its words end up in logs, in the ledger and on terminals, and anybody can have written them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote_plus, urlsplit

KEPT_BYTES = 8192
"""How much of an answer's body is kept to make an excerpt of."""

_SHORTEST_SECRET = 6
_SECRET_WORDS = ("key", "token", "secret", "password", "auth", "header")
_EXCERPT_CHARACTERS = 500


def secrets_of(params: Mapping[str, Any]) -> frozenset[str]:
    """Every text in a leg's settings that must not be shown: by the names of keys, and in addresses.

    Args:
        params: of a leg.
    """
    return _worth_hiding(_texts(params, secret=False))


def secrets_in_url(url: str) -> frozenset[str]:
    """User, password and the query's values in an address, as they stand there and as they are meant.

    Args:
        url: any text; one that is no address holds none.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return frozenset()
    if not (parts.scheme and parts.netloc):
        return frozenset()
    values = [pair.partition("=")[2] for pair in parts.query.split("&")]
    found = [parts.username or "", parts.password or "", *values]
    return _worth_hiding([*found, *map(unquote_plus, found)])


def _worth_hiding(texts: Iterable[str]) -> frozenset[str]:
    # Hiding shorter ones would garble every message, and give them away by where the gaps are.
    return frozenset(text for text in texts if len(text) >= _SHORTEST_SECRET)


def _texts(value: object, *, secret: bool) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            named = any(word in str(key).lower() for word in _SECRET_WORDS)
            # The kind of an authentication is no secret, and masking it would garble every message.
            yield from _texts(inner, secret=(secret or named) and key != "type")
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner, secret=secret)
    elif isinstance(value, str):
        yield from secrets_in_url(value)
        if secret:
            yield value


def mask(text: str, secrets: Iterable[str]) -> str:
    """A text without secrets.

    Args:
        text: to be shown.
        secrets: of the leg.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def excerpt(text: str, secrets: Iterable[str]) -> str:
    """The beginning of a text, on one line, printable, without secrets.

    Args:
        text: to be shown.
        secrets: of the leg.
    """
    text = mask(text, secrets)
    # Joined by single spaces: a line break could forge a line of a log, an escape move a terminal's cursor.
    line = " ".join(text[: 2 * _EXCERPT_CHARACTERS].split())[:_EXCERPT_CHARACTERS]
    return "".join(character if character.isprintable() else "?" for character in line)
