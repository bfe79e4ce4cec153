"""The ledger: what became of each event. SQLite, written by the relay alone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import apsw

from keepline.errors import OutboxLocked
from keepline.outbox.batch import Batch
from keepline.outbox.delivery import DeliveryState, Ended, Pending
from keepline.outbox.files import OutboxFiles
from keepline.outbox.sqlite import SOMETHING_PENDING, open_for_writing, translated

_SPARE_PAGES = 4096
_VACUUM_PAGES = 1024


class Ledger:
    """The ledger, open for writing. Only the holder of the relay's lock may open it.

    Should a second process do so all the same, nothing is damaged: SQLite lets one write at a time, an event
    is taken in by one of them only (:meth:`take_in`), and a delivery ends once (:meth:`end`).

    Each method raises ``OutboxUnavailable`` when the file can't be read or written, ``OutboxLocked`` when
    another process keeps it locked, ``OutboxDamaged`` when what it holds makes no sense. What raises has
    written nothing, and the ledger can be used again once the cause is gone.

    Args:
        files: the outbox.

    Raises:
        OutboxUnavailable: the file can't be opened or written.
        OutboxLocked: another process holds it.
        OutboxDamaged: it isn't a ledger, or a newer one.
    """

    def __init__(self, files: OutboxFiles) -> None:
        self._path = files.ledger
        self._db: apsw.Connection = open_for_writing(files)

    def close(self) -> None:
        """Write the log back into the file, and close it."""
        with translated("close", self._path):
            self._db.close()

    def checkpoint(self) -> None:
        """Write the log back into the file, so that :meth:`close` has little left to do."""
        with translated("write", self._path):
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written inside it is written together or not at all."""
        with translated("write", self._path), self._db:
            yield

    def position(self, segment: int) -> int:
        """Up to where a segment has been taken in, bytes."""
        with translated("read", self._path):
            value = self._db.execute("SELECT position FROM mark WHERE segment = ?", (segment,)).get
        return int(value or 0)

    def take_in(self, batch: Batch, destinations: Sequence[int]) -> None:
        """Take events in, each pending at every destination, and move the segment's mark: all or nothing.

        Args:
            batch: what was read of a segment, from its mark on.
            destinations: ids.

        Raises:
            OutboxLocked: the mark has moved since: the events were taken in by another process, or before.
        """
        with self.transaction():
            if self.position(batch.segment) != batch.start:
                raise OutboxLocked(
                    f"can't take events in to the ledger {self._path}: somebody else did; "
                    "see that one relay delivers from this outbox"
                )
            for entry in batch.entries:
                event = entry.event
                texts = event.event_type, event.run_key, event.job_namespace, event.job_name
                self._db.execute(
                    "INSERT INTO event (appended_at, event_type, run_key, job_namespace, job_name, body) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (entry.appended_at, *texts, event.body),
                )
                number = self._db.last_insert_rowid()
                for destination in destinations:
                    self._db.execute(
                        "INSERT INTO delivery (destination, event, state) VALUES (?, ?, 0)",
                        (destination, number),
                    )
            self._db.execute(
                "INSERT INTO mark (segment, position) VALUES (?, ?) "
                "ON CONFLICT (segment) DO UPDATE SET position = excluded.position",
                (batch.segment, batch.position),
            )

    def forget_segment(self, segment: int) -> None:
        """Drop the mark of a segment that has been deleted."""
        with translated("write", self._path):
            self._db.execute("DELETE FROM mark WHERE segment = ?", (segment,))

    def forget_segments(self) -> None:
        """Drop the marks of all segments, which have been deleted."""
        with translated("write", self._path):
            self._db.execute("DELETE FROM mark")

    def register(self, names: Iterable[str], state: str) -> dict[str, int]:
        """Make destinations known, and those that aren't named inactive.

        What waits for an inactive one waits until it is named again. It is no more than what waited when it
        was left out, since events that come later aren't for it.

        Args:
            names: of the destinations that the relay has now.
            state: the state in which each begins.

        Returns:
            the id of each.
        """
        ids = {}
        now = time.time()
        with self.transaction():
            self._db.execute("UPDATE destination SET active = 0")
            for name in names:
                ids[name] = int(
                    self._db.execute(
                        "INSERT INTO destination (name, active, state, since) VALUES (?, 1, ?, ?) "
                        "ON CONFLICT (name) DO UPDATE SET active = 1, state = excluded.state, "
                        "since = excluded.since, reason = '' RETURNING id",
                        (name, state, now),
                    ).get
                )
        return ids

    def describe(self, destination: int, *, state: str, reason: str) -> None:
        """Write down the state that a destination has come into.

        Args:
            destination: its id.
            state: of its lane.
            reason: why, in words.
        """
        with translated("write", self._path):
            self._db.execute(
                "UPDATE destination SET state = ?, reason = ?, since = ? WHERE id = ?",
                (state, reason, time.time(), destination),
            )

    def answered(self, destination: int, answer: str, at: float) -> None:
        """Write down the last answer of a destination.

        Args:
            destination: its id.
            answer: in words.
            at: s since 1970.
        """
        with translated("write", self._path):
            self._db.execute(
                "UPDATE destination SET last_answer = ?, last_answer_at = ? WHERE id = ?",
                (answer, at, destination),
            )

    def pending(self, destination: int, after: int, limit: int) -> list[Pending]:
        """What waits for a destination, in the order of appending.

        Args:
            destination: its id.
            after: only events with a greater id.
            limit: most rows.
        """
        with translated("read", self._path):
            rows = self._db.execute(
                "SELECT event.id, event.run_key, delivery.attempts, event.body FROM delivery "
                "JOIN event ON event.id = delivery.event "
                "WHERE delivery.destination = ? AND delivery.state = 0 AND delivery.event > ? "
                "ORDER BY delivery.event LIMIT ?",
                (destination, after, limit),
            ).fetchall()
        return [Pending(*row) for row in cast("list[tuple[int, str, int, bytes]]", rows)]

    def end(self, ended: Sequence[Ended], at: float) -> None:
        """Mark deliveries as delivered or dead, all or nothing; one that has ended before stays as it was.

        Args:
            ended: the ends.
            at: s since 1970.
        """
        with self.transaction():
            for one in ended:
                self._db.execute(
                    "UPDATE delivery SET state = ?, attempts = ?, ended_at = ?, answer = ? "
                    "WHERE destination = ? AND event = ? AND state = 0",
                    (int(one.state), one.attempts, at, one.answer, one.destination, one.event),
                )
                if self._db.changes():
                    column = "delivered" if one.state is DeliveryState.DELIVERED else "dead"
                    self._db.execute(
                        f"UPDATE destination SET {column} = {column} + 1 WHERE id = ?",  # noqa: S608 - fixed names
                        (one.destination,),
                    )

    def is_empty(self) -> bool:
        """Whether no delivery to an active destination waits."""
        with translated("read", self._path):
            found = self._db.execute(SOMETHING_PENDING).get
        return found is None

    def prune(self, before: float, after: int, limit: int) -> int:
        """Look at a few of the oldest events, and delete those delivered everywhere since before a time.

        Dead letters stay, and what waits for a destination that is out of the configuration.

        Args:
            before: s since 1970.
            after: look only at events with a greater id.
            limit: most events to look at.

        Returns:
            the id of the last event looked at, for the next call; 0 when there is none old enough.
        """
        with self.transaction():
            rows = self._db.execute(
                "SELECT id, appended_at, NOT EXISTS (SELECT 1 FROM delivery WHERE event = event.id "
                "AND (state <> 1 OR ended_at >= ?)) FROM event WHERE id > ? ORDER BY id LIMIT ?",
                (before, after, limit),
            ).fetchall()
            looked_at = cast("list[tuple[int, int, int]]", rows)
            old = [(number, ended) for number, appended_at, ended in looked_at if appended_at < before * 1e9]
            finished = [(number,) for number, ended in old if ended]
            self._db.executemany("DELETE FROM delivery WHERE event = ?", finished)
            self._db.executemany("DELETE FROM event WHERE id = ?", finished)
            if finished:
                self._give_space_back()
        return old[-1][0] if old else 0

    def _give_space_back(self) -> None:
        # Only what an outage left over: the pages of a usual day are wanted again tomorrow.
        free = int(self._db.pragma("freelist_count") or 0)
        if free > _SPARE_PAGES and free * 2 > int(self._db.pragma("page_count") or 0):
            self._db.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
