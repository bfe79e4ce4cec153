"""Letting go of what ended long ago: a segment at a time, a few events at a time."""

from __future__ import annotations

import time
from typing import Any, cast

from keepline.outbox.archive import archived_numbers, delete
from keepline.outbox.bodies import Place
from keepline.outbox.files import OutboxFiles
from keepline.outbox.finished import Finished, stretch_of
from keepline.outbox.ledger import Ledger
from keepline.outbox.segments import segment_numbers

_STEP = 1000
_SPARE_PAGES = 4096
_VACUUM_PAGES = 1024
# Of segments that are known to stay, so many are passed over at a time.
_PASSED = 32

# The events of a stretch of ids with a delivery that waits or is dead; out of the indexes of just those.
_UNFINISHED = """
    SELECT event FROM destination CROSS JOIN delivery INDEXED BY delivery_pending
        ON delivery.destination = destination.id AND event BETWEEN :first AND :last WHERE delivery.state = 0
    UNION SELECT event FROM destination CROSS JOIN delivery INDEXED BY delivery_dead
        ON delivery.destination = destination.id AND event BETWEEN :first AND :last WHERE delivery.state = 2
"""
_UNFINISHED_OF_SEGMENT = (
    "SELECT id, position, length FROM event "  # noqa: S608 - of fixed parts
    f"WHERE id IN ({_UNFINISHED}) AND segment = :segment ORDER BY position"
)
_EVENTS = "SELECT id FROM event WHERE id BETWEEN :first AND :last AND segment = :segment"
_DELETE = (
    "DELETE FROM delivery WHERE destination IN (SELECT id FROM destination) "  # noqa: S608 - of fixed parts
    f"AND event BETWEEN :first AND :last AND event IN ({_EVENTS})",
    f"DELETE FROM event WHERE id IN ({_EVENTS})",  # noqa: S608 - of fixed parts
    "UPDATE mark SET first_event = :last + 1 WHERE segment = :segment",
)
_EVENTS_WITH_BODIES = (
    "SELECT id, appended_at >= :before * 1e9 OR EXISTS (SELECT 1 FROM destination CROSS JOIN delivery "
    "ON delivery.destination = destination.id AND delivery.event = event.id "
    "WHERE delivery.state IN (0, 2) OR ended_at >= :before) "
    "FROM event WHERE id > :after AND segment IS NULL ORDER BY id LIMIT :most"
)


class Pruning:
    """Deletes archived segments and what the ledger knows of their events, the oldest first.

    Dead letters stay until they are discarded, and what waits stays until it has ended: where only a few
    events of a segment do, their bodies are copied into the ledger; where many do, the segment stays.

    Args:
        files: the outbox.
        ledger: open for writing.
    """

    def __init__(self, files: OutboxFiles, ledger: Ledger) -> None:
        self._files = files
        self._ledger = ledger
        self._segments: list[int] = []
        self._begun: int | None = None
        self._bodies_after = 0
        self._finished = Finished(files, ledger)
        self.deleted = 0
        """How many segments have gone."""
        self.vacuumed = 0
        """How often free pages were given back."""

    def begin(self) -> None:
        """Begin a round, with the oldest segment.

        Raises:
            OutboxError: archive or ledger can't be read.
        """
        journal = segment_numbers(self._files)
        with self._ledger.using("read"):
            marked = self._ledger.db.execute("SELECT segment FROM mark").fetchall()
        # Also those whose file is gone: a relay was killed between deleting it and writing that down.
        known = {number for (number,) in cast("list[tuple[int]]", marked)}.difference(journal)
        self._segments = sorted(known.union(archived_numbers(self._files)), reverse=True)
        self._finished.forget_all_but(known)
        self._begun = None
        self._bodies_after = 0

    def step(self, before: float, *, pressed: bool) -> bool:
        """Look at a segment, or delete a little of what ended before a time.

        Args:
            before: s since 1970.
            pressed: whether space is short: whatever has ended may go, however lately.

        Returns:
            whether the round goes on.

        Raises:
            OutboxError: something can't be read, written or deleted; what was deleted stays so.
        """
        if self._begun is not None:
            self._delete_some(self._begun)
            return True
        if pressed:
            before = time.time()
        for _ in range(_PASSED):
            if not self._segments:
                return self._delete_bodies(before) or self._give_space_back(pressed=pressed)
            number = self._segments.pop()
            if number >= before * 1e9:
                self._segments.clear()
            elif not self._finished.stays(number, before, pressed=pressed):
                if self._finished.may_go(number, before, pressed=pressed):
                    self._begun = number
                break
        return True

    @property
    def deleting(self) -> bool:
        """Whether a segment is under way that goes."""
        return self._begun is not None

    def _delete_some(self, number: int) -> None:
        stretch = stretch_of(self._ledger, number)
        if stretch is not None and stretch["first"] <= stretch["last"]:
            stretch["last"] = min(stretch["first"] + _STEP - 1, stretch["last"])
            with self._ledger.transaction():
                self._rescue(stretch)
                for statement in _DELETE:
                    self._ledger.db.execute(statement, stretch)
            return
        # Only when what is kept of it has reached the disk: no power cut brings the segment back.
        self._ledger.checkpoint()
        delete(self._files, number)
        self._ledger.bodies.forget(number)
        self.deleted += 1
        with self._ledger.transaction():
            self._ledger.db.execute("DELETE FROM mark WHERE segment = ?", (number,))
        self._begun = None

    def _rescue(self, stretch: dict[str, Any]) -> None:
        rows = self._ledger.db.execute(_UNFINISHED_OF_SEGMENT, stretch).fetchall()
        kept = cast("list[tuple[int, int, int]]", rows)
        bodies = self._ledger.bodies.read(
            [Place(stretch["segment"], position, length) for _, position, length in kept]
        )
        for (event, _, _), body in zip(kept, bodies, strict=True):
            if body is not None:
                self._ledger.db.execute(
                    "INSERT OR REPLACE INTO body (event, body) VALUES (?, ?)", (event, body)
                )
        self._ledger.db.executemany(
            "UPDATE event SET segment = NULL, position = NULL, length = NULL WHERE id = ?",
            [(event,) for event, _, _ in kept],
        )

    def _delete_bodies(self, before: float) -> bool:
        """Delete some of the events whose segment is gone already, where they have ended since."""
        db = self._ledger.db
        with self._ledger.transaction():
            rows = db.execute(
                _EVENTS_WITH_BODIES, {"before": before, "after": self._bodies_after, "most": _STEP}
            ).fetchall()
            looked_at = cast("list[tuple[int, int]]", rows)
            finished = [(event,) for event, stays in looked_at if not stays]
            db.executemany(
                "DELETE FROM delivery WHERE destination IN (SELECT id FROM destination) AND event = ?",
                finished,
            )
            db.executemany("DELETE FROM body WHERE event = ?", finished)
            db.executemany("DELETE FROM event WHERE id = ?", finished)
        if looked_at:
            self._bodies_after = looked_at[-1][0]
        return len(looked_at) == _STEP

    def _give_space_back(self, *, pressed: bool) -> bool:
        # Only what an outage left over: the pages of a usual day are wanted again tomorrow. Nearly all where
        # space is short.
        with self._ledger.using("write"):
            db = self._ledger.db
            free = int(db.pragma("freelist_count") or 0)
            pages = int(db.pragma("page_count") or 0)
            most_free = pages // 8 if pressed else max(_SPARE_PAGES, pages // 2)
            if free <= most_free:
                return False
            db.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
            self.vacuumed += 1
            return True
