"""What an exception of a transport says: something of the destination, or something of the event.

Each library has exceptions of its own, and a relay must import none of them to tell. Where one carries a
status of HTTP, that is the answer. Of the others nobody can know whether they come from the event, a wrong
setting, a mistake in the transport or an outage; and since a setting must not bury every event, they count as
failures and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from keepline.destinations.base import Answer
from keepline.destinations.masking import KEPT_BYTES, excerpt

_MOST_CAUSES = 8
_OUTER_CHARACTERS = 120
_NEVER_THE_EVENT = frozenset({401, 403, 404, 405, 407, 408, 425, 429})
_KAFKA_REFUSALS = frozenset({10, 87})
"""Kafka's own numbers for a message that is too large and for one that the broker finds invalid."""


def answer_of(error: BaseException, what: str, secrets: Iterable[str], *, of_event: bool) -> Answer:
    """The answer that an exception amounts to.

    Args:
        error: as the transport raised it.
        what: what could not be done, in words.
        secrets: of the leg.
        of_event: whether an event was being sent, which can have been refused.
    """
    text = excerpt(f"{what}: {_described(error)}", secrets)
    for one in _chain(error):
        if of_event and _is_kafka_refusal(one):
            return Answer(error=text, refused=True)
        status = _status(one)
        # What an inner one was refused need not be the event: tokens are fetched over HTTP as well.
        if status is not None and (not _is_refusal(status) or (of_event and one is error)):
            body = _body(one)
            return Answer(
                status=status,
                retry_after=_retry_after(one),
                excerpt=excerpt(body, secrets) if body else text,
            )
    return Answer(error=text)


def kafka_answer(error: object, what: str, secrets: Iterable[str]) -> Answer:
    """The answer that what a broker has said amounts to.

    Args:
        error: a ``KafkaError``.
        what: what could not be done, in words.
        secrets: of the leg.
    """
    return Answer(error=excerpt(f"{what}: {error}", secrets), refused=_is_kafka_refusal(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it was raised from: several transports of the client wrap others."""
    found: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if found is None:
            return
        yield found
        found = found.__cause__


def _described(error: BaseException) -> str:
    *outer, root = _chain(error)
    # The root first, because it says most, and because some of the others quote the whole event.
    told = [f"{type(root).__name__}: {root}"]
    told += [f"{type(one).__name__}: {str(one)[:_OUTER_CHARACTERS]}" for one in reversed(outer)]
    return ", then ".join(told)


def _status(error: BaseException) -> int | None:
    if not isinstance(error, Exception):
        return None  # The number in a SystemExit is another.
    for value in _statuses(error):
        # Never one that would mean that the event was taken.
        if isinstance(value, int) and not isinstance(value, bool) and 300 <= value < 600:
            return int(value)
    return None


def _statuses(error: Exception) -> Iterator[object]:
    """Where requests, httpx, botocore, azure, aiohttp, urllib and Google's libraries put it."""
    response = _response(error)
    if isinstance(response, Mapping):
        yield _get(response.get("ResponseMetadata"), "HTTPStatusCode")
        return
    yield _get(response, "status_code")
    yield _get(response, "status")
    # A bare number may be anything, such as a database's own.
    if _get(error, "headers") is not None:
        yield _get(error, "status")
        yield _get(error, "code")
    if hasattr(type(error), "grpc_status_code"):
        yield _get(error, "code")


def _response(error: BaseException) -> object:
    response = _get(error, "response")
    history = _get(response, "history")
    # A redirect that was followed, and what some other page said then, means that the address is wrong.
    return history[0] if isinstance(history, (list, tuple)) and history else response


def _is_refusal(status: int) -> bool:
    return 400 <= status < 500 and status not in _NEVER_THE_EVENT


def _retry_after(error: BaseException) -> str:
    response = _response(error)
    if isinstance(response, Mapping):
        headers = _get(response.get("ResponseMetadata"), "HTTPHeaders")
    else:
        headers = _get(response, "headers") or _get(error, "headers")
    for name in ("Retry-After", "retry-after"):
        value = _get(headers, name)
        if isinstance(value, str):
            return value
    return ""


def _body(error: BaseException) -> str:
    content = _get(_response(error), "content")
    return content[:KEPT_BYTES].decode(errors="replace") if isinstance(content, bytes) else ""


def _get(holder: object, name: str) -> Any:
    """A key or attribute, if there is one: libraries compute some, and raise when they can't."""
    with suppress(Exception):
        getter = getattr(holder, "get", None)
        if callable(getter) and not hasattr(holder, name):
            return getter(name)
        return getattr(holder, name, None)
    return None


def _is_kafka_refusal(error: object) -> bool:
    """Whether it is a ``KafkaError`` about the message itself, or a ``KafkaException`` that holds one."""
    held = (error, *error.args) if isinstance(error, BaseException) else (error,)
    with suppress(Exception):
        return any(type(one).__name__ == "KafkaError" and one.code() in _KAFKA_REFUSALS for one in held)
    return False
