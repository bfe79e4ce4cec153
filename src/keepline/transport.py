"""``keepline.Transport``: what users name in their OpenLineage configuration."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import attr
from openlineage.client.transport.composite import CompositeConfig, CompositeTransport

from keepline.config import RelayMode, Settings
from keepline.destinations.legs import parse
from keepline.emission import Emission
from keepline.errors import ConfigError, OutboxError
from keepline.event import Event

if TYPE_CHECKING:
    from keepline.relay.inline import InlineRelay


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
        if not params.get("transports"):
            example = '{"main": {"type": "http", "url": "http://localhost:5000"}}'
            raise ConfigError(
                "transports", params.get("transports"), f"a map of transports, such as {example}"
            )
        # A copy: what the composite builds of a list takes its names and priorities away.
        composite = CompositeConfig.from_dict(copy.deepcopy(params))
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

    To those who look it is a composite transport: ``kind``, ``config`` and ``transports``, built when
    somebody asks, give what the composite gives, as the provider's injection of transports into Spark jobs
    wants it.

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
        self._emission = Emission.of(config.settings)
        self._inline: InlineRelay | None = None
        if config.settings.relay is RelayMode.INLINE:
            # Here because it imports all that delivers, which no other process needs that emits.
            from keepline.relay.inline import InlineRelay

            self._inline = InlineRelay.of(config.settings)

    def emit(self, event: object) -> None:
        """Append an event to the outbox. When this returns, the event survives the death of any process.

        Args:
            event: a run, job or dataset event of openlineage-python.

        Raises:
            EventError: it can't be turned into JSON, or is too large.
            OutboxError: it can't be appended; nothing of it is kept, and the loss is counted.
        """
        try:
            opened = self._emission.append(Event.from_openlineage(event))
        except OutboxError:
            # It may be full of what a relay would let go of.
            self._look(now=False)
            raise
        self._look(now=opened)

    def _look(self, *, now: bool) -> None:
        if self._inline is not None:
            self._inline.ensure(now=now)
        elif self.config.settings.relay is RelayMode.AUTO:
            self._emission.watch.look(now=now)

    def wake(self) -> None:
        """See to it that a relay lives if something waits in the outbox; for a process that starts."""
        if self.config.settings.relay is RelayMode.AUTO and self._emission.something_waits():
            self._emission.watch.look(now=True)

    def close(self, timeout: float = -1) -> bool:
        """Let go of what this process holds. Events are safe in the outbox, whatever it returns.

        Args:
            timeout: with ``relay: inline``, longest wait for deliveries, seconds; negative, the client's
                default, for the setting ``exit_timeout``.

        Returns:
            whether everything appended has reached the outbox or, with ``relay: inline``, its destinations.
        """
        # Nothing was emitted with these, but those that somebody asked for may have started threads.
        for transport in self.__dict__.pop("transports", ()):
            transport.close(0)
        if self._inline is None:
            return True
        return self._inline.stop(timeout if timeout >= 0 else self.config.settings.tuning.exit_timeout)
