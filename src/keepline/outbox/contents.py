"""The JSON of an event, wherever it is kept, for those who ask."""

from __future__ import annotations

from typing import Any, cast

import apsw

from keepline.outbox.bodies import Bodies, Place
from keepline.outbox.files import OutboxFiles
from keepline.outbox.snapshot import snapshot


def body_of_event(files: OutboxFiles, event: int) -> bytes | None:
    """The JSON of an event that the ledger knows; ``None`` when it is damaged or gone.

    Args:
        files: the outbox.
        event: its id.

    Raises:
        OutboxError: the outbox can't be read.
    """
    bodies = Bodies(files)
    try:
        with snapshot(files) as db:
            rows = db.execute("SELECT segment, position, length FROM event WHERE id = ?", (event,)).fetchall()
            return read_body(db, bodies, event, *cast("tuple[Any, ...]", rows[0])) if rows else None
    finally:
        bodies.close()


def read_body(
    db: apsw.Connection,
    bodies: Bodies,
    event: int,
    segment: int | None,
    position: int | None,
    length: int | None,
) -> bytes | None:
    """The JSON of an event whose place is known; ``None`` when it is damaged or gone.

    Args:
        db: the ledger.
        bodies: of the same outbox.
        event: its id.
        segment: in which segment its record stands; ``None`` when its body is in the ledger.
        position: of its record.
        length: of its record.

    Raises:
        OutboxError: the outbox can't be read.
    """
    if segment is None or position is None or length is None:
        return cast("bytes | None", db.execute("SELECT body FROM body WHERE event = ?", (event,)).get)
    return bodies.read([Place(segment, position, length)])[0]
