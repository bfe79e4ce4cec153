"""The ledger: what became of each event. SQLite, written by the relay alone.

It goes through apsw, which carries a current SQLite of its own: versions 3.7.0 to 3.51.2 can damage a
database in WAL mode (https://www.sqlite.org/wal.html, "The WAL-Reset Bug").
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import cast

import apsw

from keepline.errors import OutboxDamaged, OutboxError, OutboxLocked, OutboxUnavailable
from keepline.outbox.files import OutboxFiles, open_private
from keepline.outbox.reader import Batch
from keepline.outbox.schema import migrate

_OLDEST_SQLITE = (3, 51, 3)
_CHECKPOINT_PAGES = 4000


class DeliveryState(IntEnum):
    """Where a delivery stands."""

    PENDING = 0
    """Not delivered yet; waits for its turn, or for its destination."""
    DELIVERED = 1
    """The destination acknowledged it."""
    DEAD = 2
    """Given up; kept with its reason."""


@dataclass(frozen=True)
class Pending:
    """One delivery that waits.

    Args:
        event: the event's id; rises in the order of appending.
        run_key: what orders it.
        attempts: how often it was tried.
        body: the event's JSON.
    """

    event: int
    run_key: str
    attempts: int
    body: bytes


@dataclass(frozen=True)
class Ended:
    """The end of one delivery.

    Args:
        destination: the destination's id.
        event: the event's id.
        state: DELIVERED or DEAD.
        attempts: how often it was tried in all.
        answer: the last answer, in words.
    """

    destination: int
    event: int
    state: DeliveryState
    attempts: int
    answer: str


class Ledger:
    """The ledger, open for writing. Only the holder of the relay's lock may open it.

    Args:
        files: the outbox.

    Raises:
        OutboxUnavailable: the file can't be opened or written.
        OutboxDamaged: it isn't a ledger, or a newer one.
    """

    def __init__(self, files: OutboxFiles) -> None:
        version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
        if version < _OLDEST_SQLITE:
            raise OutboxUnavailable(
                f"apsw brings SQLite {apsw.sqlite_lib_version()}, which can damage a ledger; "
                "install apsw 3.51.3 or later"
            )
        self._path = files.ledger
        files.create()
        with translated("open", self._path):
            _create_private(self._path)
            self._db = apsw.Connection(str(self._path))
            self._db.set_busy_timeout(2000)
            self._db.pragma("journal_mode", "wal")
            self._db.pragma("synchronous", "normal")
            self._db.pragma("wal_autocheckpoint", _CHECKPOINT_PAGES)
            self._db.pragma("journal_size_limit", 16 * 1024 * 1024)
            migrate(self._db)

    def close(self) -> None:
        """Write the log back into the file, and close it."""
        with translated("close", self._path):
            self._db.close()

    def transaction(self) -> AbstractContextManager[object]:
        """What is written inside it is written together or not at all."""
        return self._db

    def position(self, segment: int) -> int:
        """Up to where a segment has been taken in, bytes."""
        with translated("read", self._path):
            value = self._db.execute("SELECT position FROM mark WHERE segment = ?", (segment,)).get
        return int(value or 0)

    def take_in(self, batch: Batch, destinations: Sequence[int]) -> None:
        """Take events in, each pending at every destination, and move the segment's mark: all or nothing.

        Args:
            batch: what was read of a segment.
            destinations: ids.
        """
        with translated("write", self._path), self._db:
            for entry in batch.entries:
                event = entry.event
                self._db.execute(
                    "INSERT INTO event (appended_at, event_type, run_key, job_namespace, job_name, body) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        entry.appended_at,
                        event.event_type,
                        event.run_key,
                        event.job_namespace,
                        event.job_name,
                        event.body,
                    ),
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

    def register(self, names: Iterable[str], state: str) -> dict[str, int]:
        """Make destinations known, and those that aren't named inactive.

        Args:
            names: of the destinations that the relay has now.
            state: the state in which each begins.

        Returns:
            the id of each.
        """
        ids = {}
        now = time.time()
        with translated("write", self._path), self._db:
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
        with translated("write", self._path), self._db:
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
            found = self._db.execute(
                "SELECT 1 FROM destination WHERE active = 1 AND EXISTS "
                "(SELECT 1 FROM delivery WHERE destination = destination.id AND state = 0)"
            ).get
        return found is None

    def prune(self, before: float, after: int, limit: int) -> int:
        """Look at a few of the oldest events, and delete those delivered everywhere since before a time.

        Args:
            before: s since 1970.
            after: look only at events with a greater id.
            limit: most events to look at.

        Returns:
            the id of the last event looked at, for the next call; 0 when there is none old enough.
        """
        with translated("write", self._path), self._db:
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
        return old[-1][0] if old else 0


def _create_private(path: Path) -> None:
    os.close(open_private(path, os.O_RDWR | os.O_CREAT))


class translated(AbstractContextManager[None]):  # noqa: N801 - it reads as a word of the sentence
    """Turns SQLite's errors into Keepline's."""

    def __init__(self, operation: str, path: Path) -> None:
        self._operation = operation
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (apsw.NotADBError, apsw.CorruptError)):
            raise OutboxDamaged(
                f"can't {self._operation} the ledger {self._path}: {error}; "
                "move it aside, and a new one is made"
            ) from error
        if isinstance(error, apsw.BusyError):
            raise OutboxLocked(
                f"can't {self._operation} the ledger {self._path}: another process holds it"
            ) from error
        if isinstance(error, apsw.Error):
            raise OutboxUnavailable(f"can't {self._operation} the ledger {self._path}: {error}") from error
        if isinstance(error, OSError) and not isinstance(error, OutboxError):
            raise OutboxUnavailable(f"can't {self._operation} the ledger {self._path}: {error}") from error
