"""What the outbox holds, for those who only look: it is read, never written, and blocks nobody."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import Any, cast

import apsw

from keepline.outbox import refusals
from keepline.outbox.backlog import measure
from keepline.outbox.batch import read
from keepline.outbox.files import OutboxFiles, unavailable
from keepline.outbox.room import bytes_used
from keepline.outbox.schema import version
from keepline.outbox.segments import segment_numbers
from keepline.outbox.sqlite import SOMETHING_PENDING, reading

_LOOKS = 3


@dataclass(frozen=True)
class DestinationStatus:
    """Where one destination stands.

    Args:
        name: of the destination.
        active: whether the relay that ran last had it.
        state: of its lane.
        reason: why it is in that state; empty while all is well.
        since: s since 1970, when it came into that state.
        pending: deliveries that wait.
        oldest_age: seconds since the oldest of them was appended; ``None`` when nothing waits.
        delivered: deliveries that it acknowledged.
        dead: dead letters.
        discarded: deliveries that somebody has let go of on purpose.
        last_answer: its last answer, in words.
        last_answer_at: s since 1970.
    """

    name: str
    active: bool
    state: str
    reason: str
    since: float
    pending: int
    oldest_age: float | None
    delivered: int
    dead: int
    discarded: int
    last_answer: str
    last_answer_at: float | None


@dataclass(frozen=True)
class OutboxStatus:
    """What an outbox holds.

    Args:
        destinations: those that a relay has had, by name.
        waiting: events that are in the journal and not yet in the ledger; while a relay takes them in, rather
            too many than too few.
        waiting_age: seconds since the oldest of them was appended; ``None`` when there is none.
        refused: appends that were refused.
        bytes_on_disk: of journal, archive and ledger.
        commands: commands in the journal that no relay has applied yet.
        damaged: names of the files that were set aside because they can't be read.
        estimated: whether ``waiting`` is an estimate.
    """

    destinations: tuple[DestinationStatus, ...]
    waiting: int
    waiting_age: float | None
    refused: int
    bytes_on_disk: int
    commands: int = 0
    damaged: tuple[str, ...] = ()
    estimated: bool = False

    @property
    def settled(self) -> bool:
        """Whether all that was appended is taken in, and each delivery to an active destination has ended."""
        return not (self.waiting or self.commands) and not any(
            one.pending for one in self.destinations if one.active
        )


def read_status(files: OutboxFiles, *, most: int | None = None) -> OutboxStatus:
    """Look at an outbox; one that isn't there yet is empty.

    What was appended before the call is counted, as waiting, pending or ended. While a relay takes events in,
    some can be counted as waiting that aren't any more, never the other way round.

    Args:
        files: the outbox.
        most: how many events that wait to be taken in are counted before the rest is estimated by its size,
            for who can't wait long; ``None`` for all.

    Raises:
        OutboxUnavailable: it can't be read.
        OutboxLocked: another process holds the ledger.
        OutboxDamaged: the ledger isn't one.
    """
    for _ in range(_LOOKS):
        # A segment can be deleted between the looks at the ledger and at the journal, which hides its events:
        # the ledger got them after we had looked.
        numbers = segment_numbers(files)
        status = _look(files, numbers, most)
        missed = len(set(numbers) - set(segment_numbers(files)))
        if not missed:
            return status
    return replace(status, waiting=status.waiting + missed)


def something_waits(files: OutboxFiles) -> bool:
    """Whether an event waits to be taken in or delivered; quick, however much waits.

    Args:
        files: the outbox.

    Raises:
        OutboxUnavailable: it can't be read.
        OutboxLocked: another process holds the ledger.
        OutboxDamaged: the ledger isn't one.
    """
    numbers = segment_numbers(files)
    marks: dict[int, int] = {}
    with reading(files) as connection:
        if connection is not None:
            if connection.execute(SOMETHING_PENDING).get or _unplaced(connection):
                return True
            marks = _marks(connection)
    if any(read(files, number, marks.get(number, 0), limit=1).entries for number in numbers):
        return True
    # A segment that has just been deleted may have given the ledger something.
    return not set(numbers) <= set(segment_numbers(files))


def _marks(connection: apsw.Connection) -> dict[int, int]:
    rows = connection.execute("SELECT segment, position FROM mark").fetchall()
    return dict(cast("list[tuple[int, int]]", rows))


def _unplaced(connection: apsw.Connection) -> int:
    """Events that a repair has found, and that don't wait at any destination yet."""
    # A ledger of the first version has no such table.
    known = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'unplaced'").get
    return int(connection.execute("SELECT count(*) FROM unplaced").get) if known else 0


def _look(files: OutboxFiles, numbers: list[int], most: int | None) -> OutboxStatus:
    now = time.time()
    marks: dict[int, int] = {}
    destinations: tuple[DestinationStatus, ...] = ()
    unplaced = 0
    with reading(files) as connection:
        if connection is not None:
            marks = _marks(connection)
            destinations = tuple(_destinations(connection, now))
            unplaced = _unplaced(connection)
    backlog = measure(files, numbers, marks, most)
    return OutboxStatus(
        destinations=destinations,
        waiting=unplaced + backlog.events,
        waiting_age=None if backlog.oldest is None else max(now - backlog.oldest / 1e9, 0.0),
        refused=refusals.total(files),
        bytes_on_disk=bytes_used(files),
        commands=backlog.commands,
        damaged=_damaged(files),
        estimated=backlog.estimated,
    )


def _destinations(connection: apsw.Connection, now: float) -> list[DestinationStatus]:
    pending: dict[int, int] = {}
    oldest: dict[int, float] = {}
    # Each from the index of pending deliveries alone; the oldest is its first entry.
    known = connection.execute("SELECT id FROM destination").fetchall()
    for (destination,) in cast("list[tuple[int]]", known):
        pending[destination] = connection.execute(
            "SELECT count(*) FROM delivery WHERE destination = ? AND state = 0", (destination,)
        ).get
        first = connection.execute(
            "SELECT event.appended_at FROM delivery JOIN event ON event.id = delivery.event "
            "WHERE delivery.destination = ? AND delivery.state = 0 ORDER BY delivery.event LIMIT 1",
            (destination,),
        ).get
        if first is not None:
            oldest[destination] = max(now - first / 1e9, 0.0)
    # A ledger that no relay of this version has opened yet has discarded nothing.
    discarded = "discarded" if version(connection) > 1 else "0"
    rows = connection.execute(
        f"SELECT id, name, active, state, reason, since, delivered, dead, {discarded}, "  # noqa: S608
        "last_answer, last_answer_at FROM destination ORDER BY name"
    ).fetchall()
    return [
        DestinationStatus(name, bool(active), state, reason, since, pending[ident], oldest.get(ident), *rest)
        for ident, name, active, state, reason, since, *rest in cast("list[tuple[Any, ...]]", rows)
    ]


def _damaged(files: OutboxFiles) -> tuple[str, ...]:
    try:
        return tuple(sorted(os.listdir(files.damaged)))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise unavailable("read the folder", files.damaged, error) from error
