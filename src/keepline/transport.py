"""``keepline.Transport``: what users name in their OpenLineage configuration."""

from __future__ import annotations

import os
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import attr
from openlineage.client.transport.composite import CompositeConfig, CompositeTransport
from openlineage.client.transport.transport import Transport as ClientTransport

from keepline.config import RelayMode, Settings
from keepline.destinations.legs import build, parse
from keepline.event import Event
from keepline.outbox.files import OutboxFiles
from keepline.outbox.journal import Producer
from keepline.outbox.status import something_waits
from keepline.relay.inline import InlineRelay
from keepline.relay.launch import Watch


@attr.define
class TransportConfig(CompositeConfig):
    """The configuration of the composite transport, with Keepline's settings beside it.

    Args:
        settings: everything, parsed.
    """

    settings: Settings = attr.field(kw_only=True)

    @classmethod
    def from_dict(cls, params: dict[str, Any]) -> TransportConfig:
        """Parse a transport configuration, each leg with the client's own classes.

        Args:
            params: the ``transport`` mapping of an OpenLineage configuration.

        Raises:
            ConfigError: a setting of Keepline's is wrong.
            Exception: what the client raises for a wrong leg.
        """
        composite = CompositeConfig.from_dict(params)
        settings = Settings.from_dict(params)
        for leg in settings.legs:
            parse(leg)
        return cls(
            transports=composite.transports,
            continue_on_failure=composite.continue_on_failure,
            continue_on_success=composite.continue_on_success,
            sort_transports=composite.sort_transports,
            settings=settings,
        )

    def __repr__(self) -> str:
        return f"TransportConfig(settings={self.settings!r})"


class Transport(CompositeTransport):
    """Appends events to the outbox; a relay delivers them. Emitting touches no network and waits for none.

    To those who look it is a composite transport: ``kind``, ``config`` and ``transports`` give what the
    composite gives, as the provider's injection of transports into Spark jobs wants it.

    Delivery is at least once: a receiver can get an event twice when a process was killed.

    Args:
        config: parsed by :meth:`TransportConfig.from_dict`.
    """

    kind = "composite"
    config_class: type[CompositeConfig] = TransportConfig
    config: TransportConfig

    def __init__(self, config: TransportConfig) -> None:
        # Not the composite's own constructor: it would build the transports, and some start threads.
        self.config = config
        self._settings = config.settings
        self._watch = Watch(config.settings) if config.settings.relay is RelayMode.AUTO else None
        self._inline = InlineRelay.of(config.settings) if config.settings.relay is RelayMode.INLINE else None

    @cached_property
    def transports(self) -> list[ClientTransport]:
        """The client's own transports of the legs, built when somebody asks; nothing is emitted with them."""
        return [build(parse(leg)) for leg in self._settings.legs]

    def emit(self, event: object) -> None:
        """Append an event to the outbox. When this returns, the event survives the death of any process.

        Args:
            event: a run, job or dataset event of openlineage-python.

        Raises:
            EventError: it can't be turned into JSON.
            OutboxError: it can't be appended; nothing of it is kept, and the loss is counted.
        """
        opened = producer(self._settings).append(Event.from_openlineage(event))
        if self._watch is not None:
            self._watch.look(now=opened)
        elif self._inline is not None:
            self._inline.ensure()

    def wake(self) -> None:
        """See to it that a relay lives if something waits in the outbox; for a process that starts."""
        if self._watch is not None and something_waits(OutboxFiles(self._settings.outbox)):
            self._watch.look(now=True)

    def close(self, timeout: float = -1) -> bool:
        """Let go of what this process holds. Events are safe in the outbox, whatever it returns.

        Args:
            timeout: with ``relay: inline``, longest wait for deliveries, seconds; negative for no bound.

        Returns:
            whether everything appended has reached the outbox or, with ``relay: inline``, its destinations.
        """
        if self._inline is not None:
            return self._inline.stop(timeout)
        return True


class _Producers:
    """One producer an outbox and process, however many transports there are."""

    lock = threading.Lock()
    pid = os.getpid()
    by_folder: dict[Path, Producer] = {}  # noqa: RUF012 - one map a process, on purpose


def producer(settings: Settings) -> Producer:
    """The producer of this process for an outbox.

    Args:
        settings: name the outbox.
    """
    if _Producers.pid != os.getpid():
        # The lock may have been held by a thread of the parent at the fork.
        _Producers.lock, _Producers.pid = threading.Lock(), os.getpid()
    found = _Producers.by_folder.get(settings.outbox)
    if found is None:
        with _Producers.lock:
            found = _Producers.by_folder.setdefault(
                settings.outbox,
                Producer(
                    OutboxFiles(settings.outbox),
                    segment_bytes=int(settings.tuning.segment_bytes),
                    lock_timeout=settings.tuning.lock_timeout,
                ),
            )
    return found
