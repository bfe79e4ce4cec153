"""A thread that drives one transport of openlineage-python, which blocks."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

import requests
from openlineage.client.transport import Transport
from openlineage.client.transport import kafka as client_kafka

from keepline.destinations.base import Answer, Try
from keepline.destinations.legs import ParsedLeg
from keepline.destinations.masking import KEPT_BYTES, excerpt, secrets_of
from keepline.destinations.raised import answer_of, kafka_answer
from keepline.errors import EventError
from keepline.revive import revive

log = logging.getLogger(__name__)


class _Kafka(threading.local):
    """What the broker made of the event that this thread is emitting; ``None`` when it took it."""

    error: object = None

    def take(self) -> object:
        """What has been said since the last time."""
        error, self.error = self.error, None
        return error


_kafka = _Kafka()


def _on_delivery(err: object, msg: object) -> None:
    """Stands in for the client's own, which only logs: called by ``flush()``, on the thread that emits."""
    if err:
        _kafka.error = err


class Driver:
    """Builds a transport and drives it, in a thread of its own, until it is told to leave.

    Args:
        parsed: the leg.
        answered: called on that thread with this, a try and its answer; whether anybody still waits.

    Raises:
        RuntimeError: no thread can be begun.
    """

    def __init__(self, parsed: ParsedLeg, answered: Callable[[Driver, Try, Answer], bool]) -> None:
        self._parsed = parsed
        self._name = parsed.leg.name
        self._secrets = secrets_of(parsed.leg.params)
        self._answered = answered
        self._tries: queue.SimpleQueue[Try | None] = queue.SimpleQueue()
        # A daemon: a transport that never returns must not keep the relay from ending.
        self._thread = threading.Thread(target=self._drive, name=f"keepline-{self._name}", daemon=True)
        self._thread.start()

    def start(self, one: Try) -> None:
        """Hand an event over."""
        self._tries.put(one)

    def leave(self) -> None:
        """Close the transport and end, once it has come back."""
        self._tries.put(None)

    def join(self, timeout: float) -> None:
        """Wait for the end of the thread, at most so many seconds."""
        self._thread.join(timeout)

    def is_alive(self) -> bool:
        """Whether the thread hasn't ended."""
        return self._thread.is_alive()

    def _drive(self) -> None:
        transport: Transport | None = None
        while (one := self._tries.get()) is not None:
            try:
                transport = transport or self._build()
                answer = self._emit(transport, one)
            except BaseException as error:  # also what would end the thread
                answer = answer_of(error, "the transport can't be built", self._secrets, of_event=False)
            if not self._answered(self, one, answer):
                break
        if transport is not None:
            try:
                transport.close(0)
            except Exception:
                log.debug("transport `%s` failed to close", self._name, exc_info=True)

    def _build(self) -> Transport:
        transport = self._parsed.transport_class(self._parsed.config)  # type: ignore[call-arg]
        transport.name = transport.name or self._name
        transport.priority = transport.priority or self._parsed.leg.priority
        if isinstance(transport, client_kafka.KafkaTransport):
            client_kafka.on_delivery = _on_delivery
        return transport

    def _emit(self, transport: Transport, one: Try) -> Answer:
        try:
            event = revive(one.body)
        except EventError as error:
            return Answer(error=str(error), refused=True)
        _kafka.take()
        try:
            answer = transport.emit(event)  # type: ignore[arg-type]
        except BaseException as error:
            ours = not _is_elsewhere(transport, error)
            return answer_of(error, "the transport failed", self._secrets, of_event=ours)
        if said := _kafka.take():
            return kafka_answer(said, "the broker has not taken the event", self._secrets)
        if isinstance(answer, requests.Response):
            # Where the client has followed a redirect, most likely some page has answered 200 to anything.
            first = (*answer.history, answer)[0]
            text = first.content[:KEPT_BYTES].decode(errors="replace")
            return Answer(status=first.status_code, excerpt=excerpt(text, self._secrets))
        return Answer(accepted=True)


def _is_elsewhere(transport: Transport, error: BaseException) -> bool:
    """Whether another host has answered, such as one that a user's own class asks for a key."""
    asked, own = getattr(getattr(error, "response", None), "url", None), getattr(transport, "url", None)
    if not (isinstance(asked, str) and isinstance(own, str)):
        return False
    with suppress(ValueError):
        there, here = urlsplit(asked), urlsplit(own)
        return (there.hostname, there.port) != (here.hostname, here.port)
    return True
