"""A new ledger out of the segments and what can be read of a damaged one.

The segments tell which events there are and in which order; the old ledger tells what became of them, and has
the bodies whose segments are gone. The events get new ids, in the order of appending.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import apsw

from keepline.outbox.archive import archived_numbers
from keepline.outbox.batch import read
from keepline.outbox.bodies import is_possible
from keepline.outbox.files import OutboxFiles
from keepline.outbox.record import Entry
from keepline.outbox.salvage import Salvage, moment, number, text
from keepline.outbox.schema import migrate
from keepline.outbox.segments import segment_numbers
from keepline.outbox.transaction import transaction

_STAGES = """
    CREATE TABLE old.event (
        id INTEGER PRIMARY KEY, segment, position, length, appended_at, event_type, run_key, job_namespace,
        job_name, done DEFAULT 0
    );
    CREATE INDEX old.place ON event (segment, position);
    CREATE INDEX old.waiting ON event (done, id);
    CREATE TABLE old.delivery (
        event, destination, state, attempts, charged, charged_at, first_at, ended_at, status, answer,
        PRIMARY KEY (event, destination)
    ) WITHOUT ROWID;
    CREATE TABLE old.mark (segment INTEGER PRIMARY KEY, position);
"""


_ALWAYS = 2**31


@dataclass
class Saved:
    """What a repair came to.

    Args:
        known: events of which the old ledger tells.
        found: events that only the segments tell of.
        deliveries: what the old ledger tells of their deliveries, rows.
    """

    known: int = 0
    found: int = 0
    deliveries: int = 0


class Rebuilding:
    """Makes a new ledger.

    Args:
        files: the outbox, with the damaged one.
        target: the new one's file; not there yet.
    """

    def __init__(self, files: OutboxFiles, target: Path) -> None:
        self._files = files
        self._db = apsw.Connection(str(target))
        self._db.pragma("auto_vacuum", "incremental")
        # Nobody knows of it before it is whole.
        self._db.pragma("journal_mode", "off")
        self._db.pragma("synchronous", "off")
        migrate(self._db)
        stages = target.with_name(target.name + "-old")
        self._db.execute("ATTACH ? AS old", (str(stages),))
        for pragma in ("journal_mode", "synchronous"):
            self._db.execute(f"PRAGMA old.{pragma} = off").fetchall()
        self._db.execute(_STAGES)
        self._old = Salvage(files, target, target.with_name(target.name + "-copy"))
        self._saved = Saved()
        # With fewer rows of deliveries an event is taken for one of which some are lost.
        self._least_rows = _ALWAYS

    def run(self) -> Saved:
        """Make it.

        Raises:
            apsw.Error: the new one can't be written.
            OSError: the same.
            OutboxUnavailable: a segment can't be read.
        """
        with transaction(self._db):
            self._read_old()
        with transaction(self._db):
            archived = set(archived_numbers(self._files))
            numbers = sorted(archived.union(segment_numbers(self._files)))
            self._db.execute("CREATE TEMP TABLE there (segment INTEGER PRIMARY KEY)")
            self._db.executemany("INSERT INTO there VALUES (?)", [(one,) for one in numbers])
            for one in numbers:
                self._keep_others("AND (segment IS NULL OR segment NOT IN there) AND appended_at < ?", one)
                self._scan(one, archived=one in archived)
                self._keep_others("AND segment = ?", one)
            self._keep_others("AND ?", 1)
            self._count()
        return self._saved

    def close(self) -> None:
        """Let go of both; whole when it has run."""
        self._old.close()
        self._db.close()

    def _read_old(self) -> None:
        db, old = self._db, self._old
        db.executemany(
            "INSERT OR IGNORE INTO old.mark VALUES (?, ?)",
            (row for row in old.rows("mark", "segment", "position") if number(row[1]) is not None),
        )
        db.executemany(
            "INSERT OR IGNORE INTO destination (id, name, active, state, reason, since, delivered, "
            "discarded, last_answer, last_answer_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self._destinations(),
        )
        db.executemany(
            "INSERT OR IGNORE INTO old.event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)", self._events()
        )
        for (destination,) in cast("list[tuple[int]]", db.execute("SELECT id FROM destination").fetchall()):
            db.executemany(
                "INSERT OR IGNORE INTO old.delivery VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                self._deliveries(destination),
            )
        if old.is_whole("destination"):
            active = db.execute("SELECT count(*) FROM destination WHERE active").get
            whole = old.is_whole("event") and old.is_whole("delivery")
            self._least_rows = 0 if whole else int(cast("int", active))

    def _destinations(self) -> Iterator[tuple[Any, ...]]:
        columns = "name, active, state, reason, since, delivered, discarded, last_answer, last_answer_at"
        for row in self._old.rows("destination", "id", columns):
            if text(row[1]):
                state = text(row[1]), int(row[2] == 1), text(row[3]), text(row[4]), moment(row[5]) or 0.0
                counts = number(row[6]) or 0, number(row[7]) or 0
                yield row[0], *state, *counts, text(row[8]), moment(row[9])

    def _events(self) -> Iterator[tuple[Any, ...]]:
        columns = "segment, position, length, appended_at, event_type, run_key, job_namespace, job_name"
        for row in self._old.rows("event", "id", columns):
            place = row[1:4]
            if place == (None, None, None) or is_possible(*place):
                appended_at = row[4] if type(row[4]) is int else 0
                yield row[0], *place, appended_at, *map(text, row[5:9])

    def _deliveries(self, destination: int) -> Iterator[tuple[Any, ...]]:
        columns = "state, attempts, charged, charged_at, first_at, ended_at, status, answer"
        where = f"destination = {destination}"
        for row in self._old.rows("delivery", "event", columns, where=where):
            if row[1] in (0, 1, 2, 3) and type(row[1]) is int:
                counts = number(row[2]) or 0, number(row[3]) or 0
                yield (
                    row[0],
                    destination,
                    row[1],
                    *counts,
                    *map(moment, row[4:7]),
                    number(row[7]),
                    text(row[8]),
                )

    def _scan(self, segment: int, *, archived: bool) -> None:
        """Insert the events of a segment, up to where they have been taken in, and mark that."""
        up_to = self._taken_in(segment)
        position, more = 0, True
        first = last = None
        while more and (archived or position < up_to):
            batch = read(self._files, segment, position, limit=500, archived=archived)
            for entry in batch.entries:
                if not archived and entry.end > up_to:
                    more = False
                    break
                position = entry.end
                if not entry.is_command:
                    last = self._insert(segment, entry)
                    first = first or last
            else:
                position, more = batch.position, batch.more
        if archived or up_to:
            self._db.execute("INSERT INTO mark VALUES (?, ?, ?, ?)", (segment, position, first, last))

    def _taken_in(self, segment: int) -> int:
        found = self._db.execute(
            "SELECT max((SELECT coalesce(max(position), 0) FROM old.mark WHERE segment = :segment), "
            "(SELECT coalesce(max(position + length), 0) FROM old.event WHERE segment = :segment))",
            {"segment": segment},
        ).get
        return int(cast("int", found))

    def _insert(self, segment: int, entry: Entry) -> int:
        self._db.execute(
            "INSERT INTO event (segment, position, length, appended_at, event_type, run_key, job_namespace, "
            "job_name) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (segment, entry.position, entry.end - entry.position, *entry[2:7]),
        )
        new = self._db.last_insert_rowid()
        old = self._db.execute(
            "SELECT id FROM old.event WHERE segment = ? AND position = ? AND length = ? AND done = 0",
            (segment, entry.position, entry.end - entry.position),
        ).get
        if old is None:
            self._saved.found += 1
            self._db.execute("INSERT INTO unplaced VALUES (?)", (new,))
        else:
            self._keep(cast("int", old), new)
        return new

    def _keep_others(self, condition: str, value: int) -> None:
        """Insert events that only the old ledger knows, whose segments are gone."""
        after = 0
        while True:
            row = self._db.execute(
                "SELECT id, segment, position, length, appended_at, event_type, run_key, job_namespace, "  # noqa: S608
                f"job_name FROM old.event WHERE done = 0 AND id > ? {condition} ORDER BY id LIMIT 1",
                (after, value),
            ).get
            if row is None:
                return
            after, *columns = cast("tuple[Any, ...]", row)
            self._db.execute(
                "INSERT INTO event (segment, position, length, appended_at, event_type, run_key, "
                "job_namespace, job_name) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                columns,
            )
            new = self._db.last_insert_rowid()
            body = self._old.body(after) if columns[0] is None else None
            if body is not None:
                self._db.execute("INSERT INTO body VALUES (?, ?)", (new, body))
            self._keep(after, new)

    def _keep(self, old: int, new: int) -> None:
        """Take over what the old ledger tells of an event."""
        self._saved.known += 1
        self._db.execute("UPDATE old.event SET done = 1 WHERE id = ?", (old,))
        self._db.execute(
            "INSERT INTO delivery (destination, event, state, attempts, charged, charged_at, first_at, "
            "ended_at, status, answer) "
            "SELECT destination, ?, state, attempts, charged, charged_at, first_at, ended_at, status, answer "
            "FROM old.delivery WHERE event = ?",
            (new, old),
        )
        rows = self._db.changes()
        self._saved.deliveries += rows
        if rows < self._least_rows:
            self._db.execute("INSERT INTO unplaced VALUES (?)", (new,))

    def _count(self) -> None:
        self._db.execute(
            "UPDATE destination SET "
            "dead = (SELECT count(*) FROM delivery WHERE destination = id AND delivery.state = 2), "
            "delivered = max(delivered, "
            "(SELECT count(*) FROM delivery WHERE destination = id AND delivery.state = 1)), "
            "discarded = max(discarded, "
            "(SELECT count(*) FROM delivery WHERE destination = id AND delivery.state = 3))"
        )
