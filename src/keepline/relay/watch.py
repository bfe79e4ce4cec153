"""Looking now and then whether a relay lives, for a process that appends."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress

from keepline.config import Settings
from keepline.errors import KeeplineError
from keepline.outbox.files import OutboxFiles
from keepline.relay.launch import launched, reap, start
from keepline.relay.lock import running, this_place
from keepline.relay.trouble import Seldom

log = logging.getLogger(__name__)

_MOST_PATIENCE = 64


class Watch:
    """Sees to it that a relay lives. Nothing that goes wrong reaches the caller: its events are safe.

    A relay that ended while it had something to do, and so was killed or has failed, is replaced at the next
    look. Looks become rarer while each finds the relay gone again, so that one that can't live costs little.

    Args:
        settings: what to hand over.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._next_look = 0.0
        self._seldom = Seldom()
        self._patience = 1
        self._not_before = 0.0
        self._pid: int | None = None

    def look(self, *, now: bool) -> None:
        """Start a relay if none lives and it is time to look.

        Args:
            now: look at once, because a relay can have ended of its own accord.
        """
        if launched():
            reap()
        clock = time.monotonic()
        if not now and clock < self._next_look and (clock < self._not_before or self._seems_alive()):
            return
        self._next_look = clock + self._settings.tuning.look_every * self._patience
        self._not_before = self._next_look
        self._pid = None
        try:
            started = start(self._settings)
        except Exception as error:
            if self._seldom.due():
                log.warning("keepline can't start its relay; events wait in the outbox: %s", error)
            return
        if not started:
            self._not_before = clock
            if now:
                self._compare()
        if not started or now:
            self._patience = 1
            return
        self._patience = min(self._patience * 2, _MOST_PATIENCE)
        if self._patience > 2 and self._seldom.due():
            log.warning(
                "keepline's relay has ended again and was started anew; %s says why",
                OutboxFiles(self._settings.outbox).relay_log,
            )

    def _compare(self) -> None:
        # Not replaced here: that takes seconds, and two configurations would go on ending each other's relay.
        with suppress(KeeplineError):
            relay = running(OutboxFiles(self._settings.outbox))
            if relay is not None and not relay.serves(self._settings):
                log.warning(
                    "keepline's relay (pid %d) of %s was started with other settings or by another version, "
                    "and delivers by those; run `keepline resume` after a change, and give each "
                    "configuration an `outbox` of its own",
                    relay.pid,
                    self._settings.outbox,
                )

    def _seems_alive(self) -> bool:
        """Whether there is still the relay of the last look; sees between two looks that it was killed."""
        if self._pid is None:
            try:
                relay = running(OutboxFiles(self._settings.outbox))
            except KeeplineError:
                return True  # It is just starting.
            if relay is None:
                return False
            # In another container its number means nothing here.
            self._pid = relay.pid if relay.place == this_place() else 0
        if self._pid == 0:
            return True
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True  # It is there, and somebody else's.
        return True
