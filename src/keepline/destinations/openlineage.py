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

from keepline.destinations.base import Answer, Done, Try
from keepline.destinations.legs import ParsedLeg, build, mask, secrets_of
from keepline.revive import revive

log = logging.getLogger(__name__)

_REFUSALS = (TypeError, ValueError, KeyError, AttributeError, UnicodeError)
_EXCERPT_CHARACTERS = 500


class DrivenDestination:
    """Hands events to a transport that blocks, on a thread of its own.

    Args:
        parsed: the leg.
        loop: where answers are given.
        done: called on the loop with the event's id and the answer to each try.
    """

    capacity = 1

    def __init__(self, parsed: ParsedLeg, loop: asyncio.AbstractEventLoop, done: Done) -> None:
        self.timeout = float(getattr(parsed.config, "timeout", 0) or 60.0)
        self._parsed = parsed
        self._secrets = secrets_of(parsed.leg.params)
        self._loop = loop
        self._done = done
        self._tries: queue.SimpleQueue[Try | None] = queue.SimpleQueue()
        # A daemon: a transport that never returns must not keep the relay from ending.
        self._thread = threading.Thread(target=self._drive, name=f"keepline-{parsed.leg.name}", daemon=True)
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
                transport = transport or build(self._parsed)
            except Exception as error:
                answer = Answer(error=self._text("the transport can't be built", error))
            else:
                answer = self._emit(transport, one)
            try:
                self._loop.call_soon_threadsafe(partial(self._done, one.event, answer))
            except RuntimeError:
                break  # The loop has ended; nobody waits for the answer any more.
        if transport is not None:
            try:
                transport.close(0)
            except Exception:
                log.debug("transport `%s` failed to close", self._parsed.leg.name, exc_info=True)

    def _emit(self, transport: Transport, one: Try) -> Answer:
        try:
            transport.emit(revive(one.body))  # type: ignore[arg-type]
        except requests.HTTPError as error:
            if error.response is None:
                return Answer(error=self._text("no answer", error))
            return Answer(
                status=error.response.status_code,
                retry_after=error.response.headers.get("Retry-After", ""),
                excerpt=mask(error.response.text, self._secrets)[:_EXCERPT_CHARACTERS],
            )
        except _REFUSALS as error:
            return Answer(error=self._text("the transport refused the event", error), refused=True)
        except Exception as error:
            return Answer(error=self._text("the transport failed", error))
        return Answer(status=200)

    def _text(self, what: str, error: Exception) -> str:
        text = mask(f"{what}: {type(error).__name__}: {error}", self._secrets)
        return text[:_EXCERPT_CHARACTERS]
