"""What a ledger doesn't know and the archive does: after damage, or a power cut that took its last words."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from keepline.outbox.archive import archived_numbers, archived_path
from keepline.outbox.batch import read
from keepline.outbox.files import OutboxFiles, unavailable
from keepline.outbox.ledger import Ledger

log = logging.getLogger(__name__)


def place(ledger: Ledger, destinations: Sequence[int]) -> None:
    """Make events that a repair has found again wait, where it isn't known what became of them.

    Args:
        ledger: open for writing.
        destinations: ids of those that every event is for.

    Raises:
        OutboxError: the ledger can't be written.
    """
    with ledger.transaction():
        for destination in destinations:
            ledger.db.execute(
                "INSERT OR IGNORE INTO delivery (destination, event, state) SELECT ?, event, 0 FROM unplaced",
                (destination,),
            )
        if destinations:
            ledger.db.execute("DELETE FROM unplaced")


def archived_behind(files: OutboxFiles, ledger: Ledger) -> list[int]:
    """The archived segments that go on behind what the ledger has taken in of them, the oldest first.

    Only records make a difference; at the end of one there may be what a killed process has torn.

    Args:
        files: the outbox.
        ledger: open for writing.

    Raises:
        OutboxError: archive or ledger can't be read.
    """
    found = []
    for number in archived_numbers(files):
        path = archived_path(files, number)
        try:
            if path.stat().st_size > ledger.position(number):
                found.append(number)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unavailable("look at", path, error) from error
    lost = sum(_has_more(files, ledger, number) for number in found)
    if lost:
        log.warning(
            "the ledger %s is younger than the archive beside it, or has lost its last words: takes in "
            "%d segments again, whose events may be delivered a second time",
            files.ledger,
            lost,
        )
    return found


def _has_more(files: OutboxFiles, ledger: Ledger, number: int) -> bool:
    return bool(read(files, number, ledger.position(number), limit=1, archived=True).entries)
