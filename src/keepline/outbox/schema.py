"""The ledger's tables, and how an older file becomes today's.

``PRAGMA user_version`` holds the number of the last step that a file has gone through.
"""

from __future__ import annotations

import apsw

from keepline.errors import OutboxDamaged
from keepline.outbox.transaction import transaction

STEPS = (
    # 1: the first version.
    """
    -- Up to where each segment of the journal has been taken in, in bytes. Moved in the transaction that
    -- takes the events in, so that no event is taken in twice.
    CREATE TABLE mark (
        segment  INTEGER PRIMARY KEY,
        position INTEGER NOT NULL
    );

    -- What the relay knows of each destination that it ever had. delivered and dead count for good; their
    -- rows in delivery are pruned one day.
    CREATE TABLE destination (
        id             INTEGER PRIMARY KEY,
        name           TEXT NOT NULL UNIQUE,
        active         INTEGER NOT NULL,            -- 1: in the configuration of the relay that ran last
        state          TEXT NOT NULL,               -- see keepline.relay.policy.LaneState
        reason         TEXT NOT NULL DEFAULT '',    -- why it is in that state
        since          REAL NOT NULL,               -- s since 1970: when it came into that state
        delivered      INTEGER NOT NULL DEFAULT 0,
        dead           INTEGER NOT NULL DEFAULT 0,
        last_answer    TEXT NOT NULL DEFAULT '',
        last_answer_at REAL
    );

    -- The events taken in, in the order of appending.
    CREATE TABLE event (
        id            INTEGER PRIMARY KEY AUTOINCREMENT,
        appended_at   INTEGER NOT NULL,             -- ns since 1970, by the clock of the producer
        event_type    TEXT NOT NULL,
        run_key       TEXT NOT NULL,
        job_namespace TEXT NOT NULL,
        job_name      TEXT NOT NULL,
        body          BLOB NOT NULL
    );

    -- One event to one destination.
    CREATE TABLE delivery (
        destination INTEGER NOT NULL REFERENCES destination (id),
        event       INTEGER NOT NULL REFERENCES event (id),
        state       INTEGER NOT NULL,               -- see keepline.outbox.delivery.DeliveryState
        attempts    INTEGER NOT NULL DEFAULT 0,
        ended_at    REAL,                           -- s since 1970: when it was delivered or given up
        answer      TEXT NOT NULL DEFAULT '',       -- the last answer
        PRIMARY KEY (destination, event)
    ) WITHOUT ROWID;

    -- A lane reads what is pending in the order of appending.
    CREATE INDEX delivery_pending ON delivery (destination, event) WHERE state = 0;
    -- Pruning looks for what ended long ago.
    CREATE INDEX delivery_event ON delivery (event);
    """,
    # 2: bodies stay in the segments, which are kept.
    """
    -- Bodies whose segment is gone: of dead letters, of stragglers, and of events of the first version.
    CREATE TABLE body (
        event INTEGER PRIMARY KEY REFERENCES event (id),
        body  BLOB NOT NULL
    );
    INSERT INTO body (event, body) SELECT id, body FROM event;
    ALTER TABLE event DROP COLUMN body;

    -- Where the event's record stands; no segment: its body is in the table above.
    ALTER TABLE event ADD COLUMN segment INTEGER;
    ALTER TABLE event ADD COLUMN position INTEGER;   -- bytes
    ALTER TABLE event ADD COLUMN length INTEGER;     -- bytes

    -- Those without a segment are few, and looked after by themselves.
    CREATE INDEX event_rescued ON event (id) WHERE segment IS NULL;

    -- The first and the last event of a segment, by their ids; others may stand between them.
    ALTER TABLE mark ADD COLUMN first_event INTEGER;
    ALTER TABLE mark ADD COLUMN last_event INTEGER;
    -- Those of the first version aren't known by their places; what comes begins behind them.
    UPDATE mark SET first_event = seq + 1, last_event = seq FROM sqlite_sequence WHERE name = 'event';

    ALTER TABLE delivery ADD COLUMN charged INTEGER NOT NULL DEFAULT 0;  -- failed while others succeeded
    ALTER TABLE delivery ADD COLUMN charged_at REAL;  -- s since 1970: when for the first time
    ALTER TABLE delivery ADD COLUMN first_at REAL;    -- s since 1970: when it was tried first
    ALTER TABLE delivery ADD COLUMN status INTEGER;   -- HTTP status of the last answer
    DROP INDEX delivery_event;
    -- Dead letters are few, and asked for by themselves.
    CREATE INDEX delivery_dead ON delivery (destination, event) WHERE state = 2;

    ALTER TABLE destination ADD COLUMN discarded INTEGER NOT NULL DEFAULT 0;

    -- Which ledger this is: commands name events by their ids, and mean those of one ledger.
    CREATE TABLE ledger (
        identity   TEXT NOT NULL,
        checked_at REAL NOT NULL    -- s since 1970: when it was last read as a whole and found sound
    );
    INSERT INTO ledger (identity, checked_at) VALUES (lower(hex(randomblob(8))), unixepoch('subsec'));

    -- Events that were found again in their segments after the ledger was damaged: to wait at every
    -- destination of the relay that begins next, but for where it is known what became of them.
    CREATE TABLE unplaced (event INTEGER PRIMARY KEY);
    """,
)


class LedgerTooNew(OutboxDamaged):
    """A newer Keepline has written the ledger; it is left as it is."""


def version(connection: apsw.Connection) -> int:
    """Up to which step a ledger has come; 0 for a file that is still empty.

    Args:
        connection: open.

    Raises:
        OutboxDamaged: the file was written by a newer Keepline.
    """
    found = int(connection.pragma("user_version") or 0)
    if not 0 <= found <= len(STEPS):
        raise LedgerTooNew(
            f"the ledger {connection.filename} was written by a newer Keepline (its schema is {found}, "
            f"this one knows {len(STEPS)}); install that version again"
        )
    return found


def migrate(connection: apsw.Connection) -> None:
    """Bring a ledger up to today's schema, all of it or nothing.

    Args:
        connection: open for writing.

    Raises:
        OutboxDamaged: the file was written by a newer Keepline.
    """
    with transaction(connection):
        for step in STEPS[version(connection) :]:
            connection.execute(step)
        connection.pragma("user_version", len(STEPS))
