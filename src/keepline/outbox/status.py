"""What the outbox holds, for those who only look: it is read, never written, and blocks nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import apsw

from keepline.outbox import refusals
from keepline.outbox.files import OutboxFiles
from keepline.outbox.ledger import translated
from keepline.outbox.reader import backlog
from keepline.outbox.segments import segment_numbers

_LOOKS = 5


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
    last_answer: str
    last_answer_at: float | None


@dataclass(frozen=True)
class OutboxStatus:
    """What an outbox holds.

    Args:
        destinations: those that a relay has had, by name.
        waiting: events that are in the journal and not yet in the ledger.
        waiting_age: seconds since the oldest of them was appended; ``None`` when there is none.
        refused: appends that were refused.
        bytes_on_disk: of journal and ledger.
    """

    destinations: tuple[DestinationStatus, ...]
    waiting: int
    waiting_age: float | None
    refused: int
    bytes_on_disk: int

    @property
    def settled(self) -> bool:
        """Whether every event has been taken in, and every delivery to an active destination has ended."""
        return not self.waiting and not any(one.pending for one in self.destinations if one.active)


def read_status(files: OutboxFiles) -> OutboxStatus:
    """Look at an outbox; one that isn't there yet is empty.

    Args:
        files: the outbox.

    Raises:
        OutboxUnavailable: it can't be read.
        OutboxDamaged: the ledger isn't one.
    """
    for _ in range(_LOOKS):
        # A segment deleted between the look at the ledger and the look at the journal would hide its events.
        numbers = segment_numbers(files)
        status = _look(files, numbers)
        if set(numbers) <= set(segment_numbers(files)):
            break
    return status


def something_waits(files: OutboxFiles) -> bool:
    """Whether an event waits to be taken in or delivered; quick, however much waits.

    Args:
        files: the outbox.

    Raises:
        OutboxUnavailable: it can't be read.
        OutboxDamaged: the ledger isn't one.
    """
    numbers = segment_numbers(files)
    marks: dict[int, int] = {}
    if files.ledger.exists():
        with reading(files) as connection:
            if connection.execute(
                "SELECT 1 FROM destination WHERE active = 1 AND EXISTS "
                "(SELECT 1 FROM delivery WHERE destination = destination.id AND state = 0)"
            ).get:
                return True
            marks = _marks(connection)
    return any(True for number in numbers for _ in backlog(files, number, marks.get(number, 0)))


@contextmanager
def reading(files: OutboxFiles) -> Iterator[apsw.Connection]:
    """The ledger, open for reading, as it is at one instant.

    Args:
        files: the outbox, whose ledger exists.

    Raises:
        OutboxUnavailable: it can't be read.
        OutboxDamaged: it isn't a ledger.
    """
    with translated("read", files.ledger):
        connection = apsw.Connection(str(files.ledger), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.set_busy_timeout(2000)
            with connection:
                yield connection
        finally:
            connection.close()


def _marks(connection: apsw.Connection) -> dict[int, int]:
    rows = connection.execute("SELECT segment, position FROM mark").fetchall()
    return dict(cast("list[tuple[int, int]]", rows))


def _look(files: OutboxFiles, numbers: list[int]) -> OutboxStatus:
    now = time.time()
    marks: dict[int, int] = {}
    destinations: tuple[DestinationStatus, ...] = ()
    if files.ledger.exists():
        with reading(files) as connection:
            marks = _marks(connection)
            destinations = tuple(_destinations(connection, now))
    waiting = 0
    oldest: float | None = None
    for number in numbers:
        for entry in backlog(files, number, marks.get(number, 0)):
            waiting += 1
            oldest = entry.appended_at if oldest is None else min(oldest, entry.appended_at)
    return OutboxStatus(
        destinations=destinations,
        waiting=waiting,
        waiting_age=None if oldest is None else max(now - oldest / 1e9, 0.0),
        refused=refusals.total(files),
        bytes_on_disk=_bytes(files),
    )


def _destinations(connection: apsw.Connection, now: float) -> list[DestinationStatus]:
    pending: dict[int, int] = {}
    oldest: dict[int, float] = {}
    # Two look-ups in the index of pending deliveries each, however many there are behind the first.
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
    rows = connection.execute(
        "SELECT id, name, active, state, reason, since, delivered, dead, last_answer, last_answer_at "
        "FROM destination ORDER BY name"
    )
    return [
        DestinationStatus(
            name=name,
            active=bool(active),
            state=state,
            reason=reason,
            since=since,
            pending=pending[number],
            oldest_age=oldest.get(number),
            delivered=delivered,
            dead=dead,
            last_answer=last_answer,
            last_answer_at=last_answer_at,
        )
        for number, name, active, state, reason, since, delivered, dead, last_answer, last_answer_at in rows
    ]


def _bytes(files: OutboxFiles) -> int:
    total = 0
    for path in (*files.journal.glob("*"), *files.folder.glob("ledger.db*")):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total
