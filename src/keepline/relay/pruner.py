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
# After each step that only looks: so many times as long as it took is left to the deliveries.
_PAUSE = 10
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
        self._next_round_if_pressed = 0.0
        self._next_measure = 0.0
        self._next_step = 0.0
        self._under_way = False
        self._pressed = False
        # What has gone: segments up to the last measure; these and pages before this round.
        self._measured = 0
        self._before_round = 0

    def look(self) -> float | None:
        """Prune a little if it is time to; a failure is logged, and tried again when it is time again.

        Returns:
            seconds after which to look again, for there is more to prune; ``None`` when there isn't.
        """
        now = time.monotonic()
        if self._under_way and now < self._next_step:
            return self._next_step - now
        try:
            self._measure(now)
            if not self._under_way:
                if now < (self._next_round_if_pressed if self._pressed else self._next_round):
                    return None
                self._before_round = self._given_back()
                self._pruning.begin()
            deleting = self._pruning.deleting
            self._under_way = self._pruning.step(time.time() - self._tuning.retention, pressed=self._pressed)
            if not self._under_way:
                if self._pressed and self._given_back() != self._before_round:
                    self._ledger.shrink()
                self._rest()
                return None
        except OutboxDamaged:
            raise  # The relay ends, and the next one repairs it.
        except OutboxError as error:
            log.warning("can't prune the outbox: %s", error)
            self._under_way = False
            self._rest()
            return None
        # What goes has to; looking for it may take its time.
        ended = time.monotonic()
        self._next_step = ended if deleting else ended + _PAUSE * (ended - now)
        return self._next_step - ended

    def _given_back(self) -> int:
        return self._pruning.deleted + self._pruning.vacuumed

    def _measure(self, now: float) -> None:
        # Again when a segment has gone: no more goes for room than has to.
        if now >= self._next_measure or (self._pressed and self._pruning.deleted != self._measured):
            self._measured = self._pruning.deleted
            self._pressed = bytes_used(self._files) > self._tuning.max_bytes * _PRESSED
            self._next_measure = time.monotonic() + _LOOK_EVERY

    def _rest(self) -> None:
        now = time.monotonic()
        self._next_round = now + _ROUND_EVERY
        self._next_round_if_pressed = now + _LOOK_EVERY
