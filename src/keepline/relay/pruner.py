"""When to prune: now and then, a little at a time, while the relay is awake anyway."""

from __future__ import annotations

import logging
import time

from keepline.errors import OutboxDamaged, OutboxError
from keepline.outbox.files import OutboxFiles
from keepline.outbox.ledger import Ledger
from keepline.outbox.pruning import Pruning
from keepline.outbox.room import bytes_used
from keepline.tuning import Tuning

log = logging.getLogger(__name__)

_ROUND_EVERY = 60.0
_LOOK_EVERY = 1.0
# Of max_bytes: room for what is appended until the next look.
_PRESSED = 0.8


class Pruner:
    """Prunes the outbox: what is older than ``retention``, and sooner what ``max_bytes`` has no room for.

    Args:
        files: the outbox.
        ledger: open for writing.
        tuning: bounds.
    """

    def __init__(self, files: OutboxFiles, ledger: Ledger, tuning: Tuning) -> None:
        self._files = files
        self._tuning = tuning
        self._pruning = Pruning(files, ledger)
        self._ledger = ledger
        self._next_round = 0.0
        self._next_look = 0.0
        self._under_way = False
        self._pressed = False

    def look(self) -> bool:
        """Prune a little if it is time to; a failure is logged, and tried again when it is time again.

        Returns:
            whether there is more to prune.
        """
        now = time.monotonic()
        if not self._under_way and now < self._next_look:
            return False
        try:
            if self._pressed or now >= self._next_look:
                self._next_look = now + _LOOK_EVERY
                self._pressed = bytes_used(self._files) > self._tuning.max_bytes * _PRESSED
            if not self._under_way:
                if now < self._next_round and not self._pressed:
                    return False
                self._next_round = now + _ROUND_EVERY
                self._pruning.begin()
            before = time.time() - self._tuning.retention
            self._under_way = self._pruning.step(before, pressed=self._pressed)
            if self._pressed and not self._under_way:
                self._ledger.shrink()
        except OutboxDamaged:
            raise  # The relay ends, and the next one repairs it.
        except OutboxError as error:
            log.warning("can't prune the outbox: %s", error)
            self._under_way = False
        return self._under_way
