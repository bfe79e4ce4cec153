"""Whether a ledger is sound: what SQLite says of its pages, and whether it agrees with the segments."""

from __future__ import annotations

from functools import cache
from typing import cast

import apsw

from keepline.outbox.archive import archived_numbers
from keepline.outbox.batch import read
from keepline.outbox.files import OutboxFiles
from keepline.outbox.schema import STEPS
from keepline.outbox.segments import segment_numbers

_SCHEMA = "SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY name"


def has_todays_schema(connection: apsw.Connection) -> bool:
    """Whether a ledger's tables and indexes are those that this version makes.

    Args:
        connection: open.

    Raises:
        apsw.Error: it can't be read.
    """
    return connection.execute(_SCHEMA).fetchall() == _todays_schema()


@cache
def _todays_schema() -> list[tuple[str, str]]:
    connection = apsw.Connection(":memory:")
    try:
        for step in STEPS:
            connection.execute(step)
        return cast("list[tuple[str, str]]", connection.execute(_SCHEMA).fetchall())
    finally:
        connection.close()


def damage_in(files: OutboxFiles, connection: apsw.Connection) -> str | None:
    """The first thing that is wrong with a ledger, in words. Reads all of it: 1.5 s for a million events.

    Args:
        files: the outbox.
        connection: open.

    Raises:
        apsw.Error: it can't be read.
        OutboxUnavailable: a segment can't be read.
    """
    found = connection.execute("PRAGMA integrity_check(1)").get
    if found != "ok":
        return str(found)
    if connection.execute("PRAGMA foreign_key_check").fetchall():
        return "it has deliveries of events that it doesn't know"
    return _wrong_mark(files, connection)


def _wrong_mark(files: OutboxFiles, connection: apsw.Connection) -> str | None:
    # What stands before a mark has been taken in, and its last event is where the mark says.
    archived = set(archived_numbers(files))
    for number in (*archived, *segment_numbers(files)):
        mark = connection.execute(
            "SELECT position, coalesce(first_event, 1), coalesce(last_event, 0) FROM mark WHERE segment = ?",
            (number,),
        ).get
        if mark is None:
            continue
        position, first, last = cast("tuple[int, int, int]", mark)
        end = 0
        if first <= last:
            row = connection.execute("SELECT segment, position + length FROM event WHERE id = ?", (last,)).get
            segment, end = cast("tuple[int, int]", row) if isinstance(row, tuple) else (None, 0)
            if segment != number or not isinstance(end, int) or end > position:
                return f"it doesn't know the last event that it has taken in of segment {number}"
        elif last:
            continue  # Being pruned, or of the first version.
        if _has_events(files, number, end, position, archived=number in archived):
            return f"its mark in segment {number} stands behind events that it doesn't know"
    return None


def _has_events(files: OutboxFiles, number: int, begin: int, end: int, *, archived: bool) -> bool:
    more = begin < end
    while more:
        batch = read(files, number, begin, limit=100, archived=archived)
        if any(not entry.is_command and entry.end <= end for entry in batch.entries):
            return True
        more = batch.more and begin < batch.position < end
        begin = batch.position
    return False
