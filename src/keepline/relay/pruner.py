"""Deleting what was delivered long ago, a little at a time, while the relay is awake anyway."""

from __future__ import annotations

import logging
import time

from keepline.errors import OutboxError
from keepline.outbox.ledger import Ledger

log = logging.getLogger(__name__)

_EVERY = 60.0
_BATCH = 500


class Pruner:
    """Prunes the ledger.

    Args:
        ledger: open for writing.
        retention: how long a delivered event is kept, seconds.
    """

    def __init__(self, ledger: Ledger, retention: float) -> None:
        self._ledger = ledger
        self._retention = retention
        self._up_to = 0
        self._next = 0.0

    def look(self) -> None:
        """Prune a few events if it is time to; a failure is logged, and tried again when it is time again."""
        now = time.monotonic()
        if now < self._next:
            return
        try:
            self._up_to = self._ledger.prune(time.time() - self._retention, self._up_to, _BATCH)
        except OutboxError as error:
            log.warning("can't prune the ledger: %s", error)
            self._up_to = 0
        if not self._up_to:
            self._next = now + _EVERY
