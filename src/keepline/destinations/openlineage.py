"""Delivery through any other transport of openlineage-python, or a class of the user's own.

The transport is built once and driven in one thread of its lane, one event at a time.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from functools import partial

import requests
from openlineage.client.transport import Transport
from openlineage.client.transport import kafka as client_kafka

from keepline.destinations.base import Answer, Done, Try
from keepline.destinations.blocking import blocking
from keepline.destinations.legs import ParsedLeg, parse
from keepline.destinations.masking import KEPT_BYTES, excerpt, secrets_of
from keepline.revive import revive

log = logging.getLogger(__name__)

_REFUSALS = (TypeError, ValueError, KeyError, AttributeError)
_LONGEST_EMIT = 60.0


class _Kafka(threading.local):
    """What the broker made of the event that this thread is emitting; empty when it took it."""

    error = ""


_kafka = _Kafka()


def _on_delivery(err: object, msg: object) -> None:
    """Stands in for the client's own, which only logs: called by ``flush()``, on the thread that emits."""
    if err:
        _kafka.error = str(err)


class DrivenDestination:
    """Hands events to a transport that blocks, on a thread of its own.

    Args:
        parsed: the leg.
        loop: where answers are given.
        done: called on the loop with the event's id and the answer to each try.

    Raises:
        Exception: the client's own, for a leg that it can't take.
    """

    capacity = 1

    def __init__(self, parsed: ParsedLeg, loop: asyncio.AbstractEventLoop, done: Done) -> None:
        self.timeout = float(getattr(parsed.config, "timeout", 0) or _LONGEST_EMIT)
        self._name = parsed.leg.name
        self._parsed = parse(blocking(parsed.leg))
        self._secrets = secrets_of(parsed.leg.params)
        self._loop = loop
        self._done = done
        self._tries: queue.SimpleQueue[Try | None] = queue.SimpleQueue()
        # A daemon: a transport that never returns must not keep the relay from ending.
        self._thread = threading.Thread(target=self._drive, name=f"keepline-{self._name}", daemon=True)
        self._thread.start()

    def start(self, one: Try) -> None:
        """Hand an event over."""
        self._tries.put(one)

    def close(self, timeout: float) -> None:
        """Close the transport, unless it is busy for longer than the bound."""
        self._tries.put(None)
        self._thread.join(timeout)

    def _drive(self) -> None:
        transport: Transport | None = None
        while (one := self._tries.get()) is not None:
            try:
                transport = transport or self._build()
                answer = self._emit(transport, one)
            except BaseException as error:  # also what would end the thread, and leave the lane waiting
                answer = Answer(error=self._text("the transport can't be built", error))
            try:
                self._loop.call_soon_threadsafe(partial(self._done, one.event, answer))
            except RuntimeError:
                break  # The loop has ended; nobody waits for the answer any more.
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
        _kafka.error = ""
        try:
            answer = transport.emit(revive(one.body))  # type: ignore[arg-type]
        except requests.RequestException as error:
            # Some of these are ValueErrors, and still not about the event.
            if error.response is None:
                return Answer(error=self._text("no answer", error))
            return self._answer(error.response)
        except OSError as error:
            # Before the next: an error of TLS is a ValueError too, and not about the event.
            return Answer(error=self._text("the transport failed", error))
        except _REFUSALS as error:
            return Answer(error=self._text("the transport refused the event", error), refused=True)
        except BaseException as error:
            return Answer(error=self._text("the transport failed", error))
        if _kafka.error:
            return Answer(error=self._text("the broker has not taken the event", RuntimeError(_kafka.error)))
        if isinstance(answer, requests.Response) and answer.history:
            # The client has followed a redirect, most likely to a page that answers 200 to anything.
            return self._answer(answer.history[0])
        return Answer(accepted=True)

    def _answer(self, response: requests.Response) -> Answer:
        return Answer(
            status=response.status_code,
            retry_after=response.headers.get("Retry-After", ""),
            excerpt=excerpt(response.content[:KEPT_BYTES].decode(errors="replace"), self._secrets),
        )

    def _text(self, what: str, error: BaseException) -> str:
        return excerpt(f"{what}: {type(error).__name__}: {error}", self._secrets)
