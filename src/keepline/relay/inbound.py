"""The relay's end of the journal: events are taken into the ledger, commands applied, segments archived."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from keepline.errors import OutboxDamaged
from keepline.outbox.batch import read
from keepline.outbox.commands import Command, from_json
from keepline.outbox.delivery import Pending
from keepline.outbox.files import OutboxFiles
from keepline.outbox.ledger import Ledger
from keepline.outbox.reader import Batch, is_full, read_next, retire, retire_all
from keepline.outbox.segments import segment_numbers
from keepline.outbox.setting_aside import keep_stretch
from keepline.outbox.unplaced import archived_behind, place
from keepline.tuning import Tuning

log = logging.getLogger(__name__)

_BATCH = 500


@dataclass(frozen=True)
class TakenIn:
    """What one batch of the journal held.

    Args:
        events: as they wait at every destination.
        commands: applied to the ledger.
    """

    events: list[Pending]
    commands: list[Command]


class Inbound:
    """Takes events in, in the order of appending.

    Args:
        files: the outbox.
        ledger: open for writing.
        tuning: bounds.
        destinations: ids of those that every event is for.
    """

    def __init__(
        self, files: OutboxFiles, ledger: Ledger, tuning: Tuning, destinations: Sequence[int]
    ) -> None:
        self._files = files
        self._ledger = ledger
        self._tuning = tuning
        self._destinations = destinations
        self._done: list[Batch] = []
        self._all = False
        self._behind: list[int] | None = None
        self._renewed = False

    def take_in(self) -> TakenIn | None:
        """Take in one batch of what was appended; :meth:`tidy` is to be called after it.

        Returns:
            what it was; ``None`` when there was nothing.

        Raises:
            OutboxError: journal or ledger can't be used; nothing was taken in.
        """
        batch = self._left_behind() or read_next(self._files, self._ledger.position, limit=_BATCH)
        if batch is None:
            self._all = True
            return None
        commands = list(self._commands(batch))
        with self._ledger.transaction():
            events = self._ledger.take_in(batch, self._destinations)
            for command in commands:
                command.apply(self._ledger)
        self._done.append(batch)
        return TakenIn(events, commands)

    def tidy(self) -> None:
        """Tell of what was damaged in the last batch, and archive what is done.

        By itself, since what was taken in is in the ledger and has to be delivered whatever becomes of this.

        Raises:
            OutboxError: a segment can't be archived; the next call tries all of them.
        """
        while self._done:
            batch = self._done.pop()
            self._report(batch)
            if not batch.more and not self._all:
                self._all = True
                self._clear(batch.segment, batch.position)
                self._all = False
        if self._all:
            # Also those that an append was still using when their last event was taken in.
            for number in segment_numbers(self._files):
                self._clear(number, self._ledger.position(number))
            self._all = False

    @property
    def caught_up(self) -> bool:
        """Whether all of the archive is in the ledger; before, nothing may be pruned."""
        return self._behind == []

    def _left_behind(self) -> Batch | None:
        """What a ledger has lost that was older than the archive, or was made anew; usually nothing."""
        if self._behind is None:
            place(self._ledger, self._destinations)
            self._behind = archived_behind(self._files, self._ledger)
        while self._behind:
            number = self._behind[0]
            batch = read(self._files, number, self._ledger.position(number), limit=_BATCH, archived=True)
            if batch.position > batch.start:
                if not self._renewed:
                    self._ledger.renew()
                    self._renewed = True
                return batch
            del self._behind[0]
        return None

    def _commands(self, batch: Batch) -> Iterator[Command]:
        for entry in batch.entries:
            if entry.is_command:
                try:
                    yield from_json(entry.body)
                except OutboxDamaged as error:
                    log.error("%s", error)

    def _clear(self, number: int, position: int) -> None:
        full = is_full(self._files, number, self._tuning.segment_bytes)
        if full:
            retire(self._files, number, position)

    def _report(self, batch: Batch) -> None:
        for damage in batch.damages:
            log.error(
                "skipped %d bytes of segment %d at %d that hold no whole record; %s",
                damage.end - damage.position,
                batch.segment,
                damage.position,
                keep_stretch(self._files, batch.segment, damage),
            )

    def leave(self, let_go: Callable[[], None]) -> bool:
        """Archive every segment, so that the next append has to open a new one, and looks for a relay.

        Args:
            let_go: called when they are archived and no append can be made: that append finds what it leaves.

        Returns:
            whether they are archived; not when something was appended that hasn't been taken in.

        Raises:
            OutboxError: journal or ledger can't be used.
        """
        # Appends wait while the ledger is closed, which now has little left to do.
        self._ledger.checkpoint()
        return retire_all(self._files, self._ledger.position, timeout=self._tuning.lock_timeout, then=let_go)
