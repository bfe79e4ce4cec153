"""The ledger: what became of each event. SQLite, written by the relay alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

from keepline.errors import OutboxLocked
from keepline.outbox.batch import Batch
from keepline.outbox.delivery import DeliveryState, Ended, Pending, Tried
from keepline.outbox.ledger_file import LedgerFile, whole
from keepline.outbox.record import Entry
from keepline.outbox.sqlite import SOMETHING_PENDING


class Ledger(LedgerFile):
    """The ledger, open for writing. Only the holder of the relay's lock may open it.

    Should a second process do so all the same, nothing is damaged: SQLite lets one write at a time, an event
    is taken in by one of them only (:meth:`take_in`), and a delivery ends once (:meth:`end`).

    Each method raises ``OutboxUnavailable`` when the file can't be read or written, ``OutboxLocked`` when
    another process keeps it locked, ``OutboxDamaged`` when what it holds makes no sense. What raises has
    written nothing, and the ledger can be used again once the cause is gone.
    """

    def position(self, segment: int) -> int:
        """Up to where a segment has been taken in, bytes."""
        with self.using("read"):
            return whole(self.db.execute("SELECT position FROM mark WHERE segment = ?", (segment,)).get)

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
        first = whole(self.db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").get) + 1
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
                at_first = one.state is DeliveryState.DELIVERED and one.attempts <= 1
                first_at = None if at_first else one.first_at
                key = (one.state, one.attempts, one.status, one.answer, one.destination, first_at)
                alike.setdefault(key, []).append(one)
            for (state, attempts, status, answer, destination, _), ends in alike.items():
                # Those that were taken at the first try share the time of the first of them.
                first_at = min((one.first_at for one in ends if one.first_at is not None), default=None)
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
