"""What a process needs to emit to an outbox, once a process however many transports it makes."""

from __future__ import annotations

import logging
from pathlib import Path

from keepline.config import Durability, Settings
from keepline.errors import OutboxError
from keepline.event import Event
from keepline.outbox.files import OutboxFiles
from keepline.outbox.journal import Producer
from keepline.relay.watch import Watch

log = logging.getLogger(__name__)


class Emission:
    """Appends to one outbox, and knows who looks after its relay; made by :meth:`of`.

    Args:
        settings: of the transport that came first.
    """

    _made: dict[Path, Emission] = {}  # noqa: RUF012 - one an outbox and process, on purpose

    def __init__(self, settings: Settings) -> None:
        tuning = settings.tuning
        self.settings = settings
        self._files = OutboxFiles(settings.outbox)
        self._producer = Producer(
            self._files,
            segment_bytes=tuning.segment_bytes,
            lock_timeout=tuning.lock_timeout,
            max_bytes=tuning.max_bytes,
            max_event_bytes=tuning.max_event_bytes,
            synced=settings.durability is Durability.POWER,
        )
        self.watch = Watch(settings)

    @classmethod
    def of(cls, settings: Settings) -> Emission:
        """The one of this process for an outbox. A forked child goes on with its parent's.

        Args:
            settings: name the outbox.
        """
        found = cls._made.get(settings.outbox)
        if found is None:
            found = cls._made.setdefault(settings.outbox, cls(settings))
        return found

    @classmethod
    def settings_of_all(cls) -> list[Settings]:
        """The settings with which this process, or one that it was forked from, emits; one an outbox."""
        return [one.settings for one in cls._made.values()]

    def append(self, event: Event) -> bool:
        """Put an event behind all that was appended before; see :meth:`Producer.append`."""
        return self._producer.append(event)

    def something_waits(self) -> bool:
        """Whether an event waits to be taken in or delivered; also where that can't be told."""
        # Here because it imports SQLite, which an append doesn't need.
        from keepline.outbox.status import something_waits

        try:
            return something_waits(self._files)
        except OutboxError as error:
            # On a full disk, say, which a relay can still make room on; what else is wrong, its log tells.
            log.warning("keepline can't see whether events wait: %s", error)
            return True
