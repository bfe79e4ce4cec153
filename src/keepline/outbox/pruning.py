"""Letting go of what ended long ago: a segment at a time, a few events at a time."""

from __future__ import annotations

import time
from typing import cast

from keepline.outbox.archive import archived_numbers, archived_path, delete
from keepline.outbox.bodies import Place
from keepline.outbox.files import OutboxFiles
from keepline.outbox.ledger import Ledger

_STEP = 1000
_SPARE_PAGES = 4096
_VACUUM_PAGES = 1024
# Of a segment's bytes: what isn't finished may be this part of it, and is copied into the ledger.
_STRAGGLERS = 1 / 8

# An event with a delivery that waits, is dead, or has ended since a time.
_UNFINISHED = (
    "EXISTS (SELECT 1 FROM destination JOIN delivery ON delivery.destination = destination.id "
    "AND delivery.event = event.id WHERE delivery.state IN (0, 2) OR ended_at >= ?)"
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
        self._before = 0.0
        self._bodies_after = 0

    def begin(self) -> None:
        """Begin a round, with the oldest segment.

        Raises:
            OutboxUnavailable: the archive can't be read.
        """
        self._segments = archived_numbers(self._files)[::-1]
        self._begun = None
        self._bodies_after = 0

    def step(self, before: float, *, pressed: bool) -> bool:
        """Delete a little of what ended before a time.

        Args:
            before: s since 1970.
            pressed: whether space is short: whatever has ended may go, however lately.

        Returns:
            whether the round goes on.

        Raises:
            OutboxError: something can't be read, written or deleted; what was deleted stays so.
        """
        if self._begun is not None:
            self._delete_some(self._begun, self._before)
            return True
        if pressed:
            before = time.time()
        while self._segments:
            number = self._segments.pop()
            if number >= before * 1e9:
                self._segments.clear()
                break
            if self._may_go(number, before):
                self._begun, self._before = number, before
                return True
        return self._delete_bodies(before)

    def _may_go(self, number: int, before: float) -> bool:
        found = self._ledger.db.execute(
            "SELECT first_event, last_event FROM mark WHERE segment = ?", (number,)
        ).fetchall()
        if not found:
            return False  # Not taken in; perhaps the ledger is younger than it.
        first, last = cast("tuple[int | None, int | None]", found[0])
        if first is None:
            return True
        unfinished = self._ledger.db.execute(
            f"SELECT coalesce(sum(length), 0) FROM event WHERE id BETWEEN ? AND ? AND segment = ? AND {_UNFINISHED}",
            (first, last, number, before),
        ).get
        try:
            size = archived_path(self._files, number).stat().st_size
        except FileNotFoundError:
            return True
        return bool(unfinished <= size * _STRAGGLERS)

    def _delete_some(self, number: int, before: float) -> None:
        db = self._ledger.db
        with self._ledger.transaction():
            ((first, last),) = cast(
                "list[tuple[int | None, int]]",
                db.execute(
                    "SELECT first_event, last_event FROM mark WHERE segment = ?", (number,)
                ).fetchall(),
            )
            if first is not None and first <= last:
                up_to = min(first + _STEP - 1, last)
                self._rescue(number, first, up_to, before)
                ours = "SELECT id FROM event WHERE id BETWEEN ? AND ? AND segment = ?"
                db.execute(
                    "DELETE FROM delivery WHERE destination IN (SELECT id FROM destination) "  # noqa: S608
                    f"AND event BETWEEN ? AND ? AND event IN ({ours})",
                    (first, up_to, first, up_to, number),
                )
                db.execute(
                    "DELETE FROM event WHERE id BETWEEN ? AND ? AND segment = ?", (first, up_to, number)
                )
                db.execute("UPDATE mark SET first_event = ? WHERE segment = ?", (up_to + 1, number))
                return
        # Only when that is written: what the ledger knows of has its body.
        delete(self._files, number)
        self._ledger.bodies.forget(number)
        with self._ledger.transaction():
            db.execute("DELETE FROM mark WHERE segment = ?", (number,))
            self._give_space_back()
        self._begun = None

    def _rescue(self, number: int, first: int, up_to: int, before: float) -> None:
        db = self._ledger.db
        rows = db.execute(
            "SELECT id, position, length FROM event WHERE id BETWEEN ? AND ? AND segment = ? "
            f"AND {_UNFINISHED} ORDER BY position",
            (first, up_to, number, before),
        ).fetchall()
        kept = cast("list[tuple[int, int, int]]", rows)
        bodies = self._ledger.bodies.read([Place(number, position, length) for _, position, length in kept])
        for (event, _, _), body in zip(kept, bodies, strict=True):
            if body is not None:
                db.execute("INSERT OR REPLACE INTO body (event, body) VALUES (?, ?)", (event, body))
        db.executemany(
            "UPDATE event SET segment = NULL, position = NULL, length = NULL WHERE id = ?",
            [(event,) for event, _, _ in kept],
        )

    def _delete_bodies(self, before: float) -> bool:
        db = self._ledger.db
        with self._ledger.transaction():
            rows = db.execute(
                f"SELECT id, {_UNFINISHED} OR appended_at >= ? FROM event JOIN body ON body.event = event.id "  # noqa: S608
                "WHERE id > ? ORDER BY id LIMIT ?",
                (before, before * 1e9, self._bodies_after, _STEP),
            ).fetchall()
            looked_at = cast("list[tuple[int, int]]", rows)
            finished = [(event,) for event, stays in looked_at if not stays]
            db.executemany(
                "DELETE FROM delivery WHERE destination IN (SELECT id FROM destination) AND event = ?",
                finished,
            )
            db.executemany("DELETE FROM body WHERE event = ?", finished)
            db.executemany("DELETE FROM event WHERE id = ?", finished)
            if finished:
                self._give_space_back()
        if looked_at:
            self._bodies_after = looked_at[-1][0]
        return len(looked_at) == _STEP

    def _give_space_back(self) -> None:
        # Only what an outage left over: the pages of a usual day are wanted again tomorrow.
        db = self._ledger.db
        free = int(db.pragma("freelist_count") or 0)
        if free > _SPARE_PAGES and free * 2 > int(db.pragma("page_count") or 0):
            db.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
