"""The ledger: what became of each event. SQLite, written by the relay alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

import apsw

from keepline.errors import OutboxDamaged, OutboxLocked
from keepline.outbox.batch import Batch
from keepline.outbox.bodies import Bodies, is_possible
from keepline.outbox.delivery import DeliveryState, Ended, Pending, Tried
from keepline.outbox.files import OutboxFiles
from keepline.outbox.record import Entry
from keepline.outbox.sqlite import SOMETHING_PENDING, open_for_writing, translated
from keepline.outbox.transaction import transaction

_PENDING_BYTES = 8 * 1024 * 1024
_PENDING = (
    "SELECT event.id, run_key, attempts, charged, first_at, charged_at, segment, position, length, "
    "CASE WHEN segment IS NULL THEN (SELECT body FROM body WHERE body.event = event.id) END "
    "FROM delivery JOIN event ON event.id = delivery.event "
    "WHERE destination = ? AND state = 0 AND delivery.event > ? ORDER BY delivery.event LIMIT ?"
)


class Ledger:
    """The ledger, open for writing. Only the holder of the relay's lock may open it.

    Should a second process do so all the same, nothing is damaged: SQLite lets one write at a time, an event
    is taken in by one of them only (:meth:`take_in`), and a delivery ends once (:meth:`end`).

    Each method raises ``OutboxUnavailable`` when the file can't be read or written, ``OutboxLocked`` when
    another process keeps it locked, ``OutboxDamaged`` when what it holds makes no sense. What raises has
    written nothing, and the ledger can be used again once the cause is gone.

    Args:
        files: the outbox.
        power: whether what was written outlives a power cut too; each transaction then waits for the disk.

    Raises:
        OutboxUnavailable: the file can't be opened or written.
        OutboxLocked: another process holds it.
        OutboxDamaged: it isn't a ledger, or a newer one.
    """

    def __init__(self, files: OutboxFiles, *, power: bool = False) -> None:
        self._files = files
        self._path = files.ledger
        self.bodies = Bodies(files)
        self.db: apsw.Connection = open_for_writing(files, power=power)

    def close(self) -> None:
        """Write the log back into the file, and close it."""
        self.bodies.close()
        with translated("close", self._path):
            self.db.close()

    def checkpoint(self) -> None:
        """Write the log back into the file, through to the disk."""
        with self.using("write"):
            self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def shrink(self) -> None:
        """Give free pages back to the disk, and what the log has grown to."""
        with translated("write", self._path):
            self.db.execute("PRAGMA incremental_vacuum").fetchall()
            # Waits for readers, which are done soon, and lets it be where they aren't.
            with suppress(apsw.BusyError):
                self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    @contextmanager
    def using(self, operation: str) -> Iterator[None]:
        """Errors of SQLite inside it become Keepline's, and damage is left to the next relay to repair.

        Args:
            operation: what is tried, in words.
        """
        try:
            with translated(operation, self._path):
                yield
        except OutboxDamaged as error:
            # Tables that aren't ours show at every opening.
            if not isinstance(error.__cause__, apsw.SQLError):
                with suppress(OSError):
                    self._files.suspect.write_text(f"{error}\n")
            raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written inside it is written together or not at all."""
        with self.using("write"), transaction(self.db):
            yield

    def position(self, segment: int) -> int:
        """Up to where a segment has been taken in, bytes."""
        with self.using("read"):
            value = self.db.execute("SELECT position FROM mark WHERE segment = ?", (segment,)).get
        return int(value or 0)

    def renew(self) -> None:
        """Become another ledger to whoever knows ids of events: they may come to mean others."""
        with self.using("write"):
            self.db.execute("UPDATE ledger SET identity = lower(hex(randomblob(8)))")

    def take_in(self, batch: Batch, destinations: Sequence[int]) -> list[Pending]:
        """Take events in, each pending at every destination, and move the segment's mark: all or nothing.

        Commands among them are left to the caller.

        Args:
            batch: what was read of a segment, from its mark on.
            destinations: ids.

        Returns:
            the events, as they wait.

        Raises:
            OutboxLocked: the mark has moved since: the events were taken in by another process, or before.
        """
        with self.transaction():
            if self.position(batch.segment) != batch.start:
                raise OutboxLocked(
                    f"can't take events in to the ledger {self._path}: somebody else did; "
                    "see that one relay delivers from this outbox"
                )
            events = [entry for entry in batch.entries if not entry.is_command]
            first = self._insert(batch.segment, events)
            last = first + len(events) - 1
            for destination in destinations:
                self.db.execute(
                    "INSERT INTO delivery (destination, event, state) "
                    "SELECT ?, id, 0 FROM event WHERE id BETWEEN ? AND ?",
                    (destination, first, last),
                )
            ends = (first, last) if events else (None, None)
            self.db.execute(
                "INSERT INTO mark (segment, position, first_event, last_event) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (segment) DO UPDATE SET position = excluded.position, "
                "first_event = coalesce(first_event, excluded.first_event), "
                "last_event = coalesce(excluded.last_event, last_event)",
                (batch.segment, batch.position, *ends),
            )
        return [Pending(number, one.run_key, one.body) for number, one in enumerate(events, first)]

    def _insert(self, segment: int, events: Sequence[Entry]) -> int:
        """Insert events, and give the id of the first; the others' follow it without a gap."""
        found = self.db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").get
        first = int(found or 0) + 1
        self.db.executemany(
            "INSERT INTO event (id, segment, position, length, appended_at, event_type, run_key, "
            "job_namespace, job_name) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (number, segment, one.position, one.end - one.position, *one[2:7])
                for number, one in enumerate(events, first)
            ),
        )
        return first

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
            self.db.execute("UPDATE destination SET active = 0")
            for name in names:
                ids[name] = int(
                    self.db.execute(
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
        with self.using("write"):
            self.db.execute(
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
        with self.using("write"):
            self.db.execute(
                "UPDATE destination SET last_answer = ?, last_answer_at = ? WHERE id = ?",
                (answer, at, destination),
            )

    def pending(
        self, destination: int, after: int, limit: int, most_bytes: int = _PENDING_BYTES
    ) -> list[Pending]:
        """What waits for a destination, in the order of appending.

        Args:
            destination: its id.
            after: only events with a greater id.
            limit: most rows.
            most_bytes: most bytes of bodies, but for the first; what would go beyond waits for the next call.
        """
        found: list[tuple[Any, ...]] = []
        with self.using("read"):
            rows = self.db.execute(_PENDING, (destination, after, limit))
            left = most_bytes
            for row in cast("Iterator[tuple[Any, ...]]", rows):
                left -= _size_of(row)
                if left < 0 and found:
                    break
                found.append(row)
            # A row that is left lying would keep the log from being written back.
            rows.close()
        bodies = iter(self.bodies.read([row[6:9] for row in found if row[6] is not None]))
        return [
            Pending(event, run_key, body if segment is None else next(bodies), *tries)
            for event, run_key, *tries, segment, _, _, body in found
        ]

    def tried(self, tried: Sequence[Tried]) -> None:
        """Write down tries that failed, all or nothing; a delivery that has ended stays as it was.

        Args:
            tried: the tries.
        """
        with self.transaction():
            self.db.executemany(
                "UPDATE delivery SET attempts = ?, charged = ?, first_at = ?, charged_at = ?, status = ?, "
                "answer = ? WHERE destination = ? AND event = ? AND state = 0",
                (
                    (
                        *(one.attempts, one.charged, one.first_at, one.charged_at, one.status, one.answer),
                        *(one.destination, one.event),
                    )
                    for one in tried
                ),
            )

    def end(self, ended: Sequence[Ended], at: float) -> None:
        """Mark deliveries as delivered or dead, all or nothing; one that has ended before stays as it was.

        Args:
            ended: the ends.
            at: s since 1970.
        """
        # Nearly all are delivered at the first try and alike: those of a destination are marked by one query.
        alike: dict[tuple[Any, ...], list[Ended]] = {}
        with self.transaction():
            for one in ended:
                if one.taken_by not in (None, one.destination):
                    one = self._hand_over(one, one.taken_by)
                key = (one.state, one.attempts, one.status, one.answer, one.destination)
                alike.setdefault(key, []).append(one)
            for (state, attempts, status, answer, destination), ends in alike.items():
                first_at = ends[0].first_at if attempts <= 1 else None
                events = json.dumps([one.event for one in ends])
                self.db.execute(
                    "UPDATE delivery SET state = ?, attempts = ?, status = ?, answer = ?, ended_at = ?, "
                    "first_at = coalesce(first_at, ?) "
                    "WHERE destination = ? AND event IN (SELECT value FROM json_each(?)) AND state = 0",
                    (state, attempts, status, answer, at, first_at, destination, events),
                )
                self.count(destination, state, self.db.changes())

    def _hand_over(self, one: Ended, taken_by: int) -> Ended:
        """Make a delivery that waits that of the destination that has taken it."""
        there = self.db.execute(
            "SELECT state FROM delivery WHERE destination = ? AND event = ?", (taken_by, one.event)
        ).get
        # It may have one of its own, after a replay.
        self.db.execute(
            "UPDATE OR REPLACE delivery SET destination = ? "
            "WHERE destination = ? AND event = ? AND state = 0",
            (taken_by, one.destination, one.event),
        )
        if there and self.db.changes():
            self.count(taken_by, DeliveryState(there), -1)
        return one._replace(destination=taken_by, taken_by=None)

    def count(self, destination: int, state: DeliveryState, more: int) -> None:
        """Correct how many deliveries of a destination have come into a state.

        Args:
            destination: its id.
            state: any but PENDING.
            more: how many; negative for fewer.
        """
        column = state.name.lower()
        with self.using("write"):
            self.db.execute(
                f"UPDATE destination SET {column} = {column} + ? WHERE id = ?",  # noqa: S608 - fixed names
                (more, destination),
            )

    @property
    def identity(self) -> str:
        """Which ledger this is: ids of events mean those of one ledger."""
        with self.using("read"):
            return str(self.db.execute("SELECT identity FROM ledger").get)

    def ident_of(self, destination: str) -> int | None:
        """The id of a destination.

        Args:
            destination: its name.
        """
        with self.using("read"):
            found = self.db.execute("SELECT id FROM destination WHERE name = ?", (destination,)).get
        return None if found is None else int(found)

    def is_empty(self) -> bool:
        """Whether no delivery to an active destination waits."""
        with self.using("read"):
            found = self.db.execute(SOMETHING_PENDING).get
        return found is None


def _size_of(row: tuple[Any, ...]) -> int:
    """The bytes of what waits, whose row is what we write."""
    event, run_key, attempts, charged, first_at, charged_at, *place, body = row
    try:
        sound = type(run_key) is str and attempts >= 0 <= charged
        sound = sound and (first_at or 0.0) >= 0.0 <= (charged_at or 0.0)
        if place[0] is None:
            size = len(body or b"")
        else:
            sound, size = sound and is_possible(*place), place[2]
    except TypeError:
        sound = False
    if not sound:
        raise OutboxDamaged(f"the row of event {event} in the ledger isn't one; the next relay repairs it")
    return int(size)
