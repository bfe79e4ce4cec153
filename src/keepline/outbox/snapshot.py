"""Ledger and journal together, as they are at one instant, for those who ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from keepline.errors import OutboxUnavailable
from keepline.outbox.archive import find_segment
from keepline.outbox.batch import read_file
from keepline.outbox.files import OutboxFiles
from keepline.outbox.record import Entry
from keepline.outbox.schema import STEPS, migrate, version
from keepline.outbox.segments import segment_numbers
from keepline.outbox.sqlite import reading, translated

_STEP = 1000

# What is in the journal and not in the ledger yet, with numbers that follow those of the ledger's events. A
# table of SQLite's own, which goes to its temporary files where it is large.
_WAITING = """
CREATE TEMP TABLE waiting (
    id INTEGER PRIMARY KEY, segment INTEGER, position INTEGER, length INTEGER, appended_at INTEGER,
    event_type TEXT, run_key TEXT, job_namespace TEXT, job_name TEXT
)
"""
# Every event that the outbox knows of; `taken_in` is 0 where no delivery can be known yet.
_KNOWN = """
CREATE TEMP VIEW known AS
SELECT id, segment, position, length, appended_at, event_type, run_key, job_namespace, job_name, 1 AS taken_in
FROM main.event
UNION ALL
SELECT id, segment, position, length, appended_at, event_type, run_key, job_namespace, job_name, 0
FROM temp.waiting
"""


@contextmanager
def snapshot(files: OutboxFiles, *, with_journal: bool = False) -> Iterator[apsw.Connection]:
    """The ledger to read from, as it is at one instant; an empty one where no relay has made it yet.

    Args:
        files: the outbox.
        with_journal: whether there is a view ``known`` of all events, those that wait in the journal among
            them. What was appended before the call is in it, whatever the relay does meanwhile.

    Raises:
        OutboxUnavailable: it can't be read, or is an older Keepline's.
        OutboxLocked: another process holds it.
        OutboxDamaged: it isn't a ledger, or a newer one.
    """
    # Before the look at the ledger: a segment that is taken in and archived since is found in the archive.
    numbers = segment_numbers(files) if with_journal else []
    with reading(files) as found:
        connection = found or _empty()
        try:
            if version(connection) < len(STEPS):
                raise OutboxUnavailable(
                    f"the ledger {files.ledger} is an older Keepline's; `keepline stop` and `keepline flush` "
                    "have this version's relay bring it up to date"
                )
            with translated("read", files.ledger):
                if with_journal:
                    _add_journal(files, connection, numbers)
                yield connection
        finally:
            if connection is not found:
                connection.close()


def _empty() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    migrate(connection)
    return connection


def _add_journal(files: OutboxFiles, db: apsw.Connection, numbers: list[int]) -> None:
    db.execute(_WAITING)
    db.execute(_KNOWN)
    last = int(db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").get or 0)
    for number in numbers:
        position = int(db.execute("SELECT position FROM mark WHERE segment = ?", (number,)).get or 0)
        for entries in entries_from(files, number, position):
            events = [one for one in entries if not one.is_command]
            db.executemany(
                "INSERT INTO temp.waiting VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (event, number, one.position, one.end - one.position, *one[2:7])
                    for event, one in enumerate(events, last + 1)
                ),
            )
            last += len(events)


def entries_from(files: OutboxFiles, number: int, position: int) -> Iterator[tuple[Entry, ...]]:
    """The records of a segment from a position on, a few at a time, also when it is archived meanwhile.

    Args:
        files: the outbox.
        number: the segment.
        position: where to begin, bytes.

    Raises:
        OutboxUnavailable: it can't be read.
    """
    file = find_segment(files, number)
    if file is None:
        return
    try:
        more = True
        while more:
            batch = read_file(file, number, position, _STEP)
            yield batch.entries
            position, more = batch.position, batch.more
    finally:
        file.close()
