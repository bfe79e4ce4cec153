"""What the tests of the commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keepline.event import Event
from keepline.outbox.files import OutboxFiles
from keepline.outbox.journal import Producer
from keepline.outbox.sqlite import reading
from tests.support_relay import Process, append, settled, status_of, transport, until

Keepline = Callable[..., Process]

EVENT_TIME = "2026-01-01T00:00:00Z"
RUN = "00000000-0000-4000-8000-{:012d}"


def configured(outbox: Path, legs: dict[str, Any], **keys: Any) -> str:
    """A value for OPENLINEAGE__TRANSPORT."""
    return json.dumps(transport(outbox, legs, **keys))


def said(one: Process, status: int = 0) -> str:
    """What a command printed, once it has ended as expected."""
    assert one.end() == status, one.output
    return one.output


def document(one: Process, status: int = 0) -> Any:
    """The JSON document that a command printed, once it has ended as expected."""
    return json.loads(said(one, status))


def emit(outbox: Path, *events: str, job: str = "etl") -> None:
    """Append events, each ``<number of the run>:<type>``."""
    producer = Producer(OutboxFiles(outbox), segment_bytes=1 << 24, lock_timeout=5.0)
    try:
        for each in events:
            number, _, event_type = each.partition(":")
            body = {
                "eventTime": EVENT_TIME,
                "eventType": event_type,
                "run": {"runId": run(number)},
                "job": {"name": each},
            }
            producer.append(Event(json.dumps(body).encode(), run(number), event_type, "tests", job))
    finally:
        producer.close()


def run(number: int | str) -> str:
    """The id of a run."""
    return RUN.format(int(number))


def all_counted(outbox: Path, name: str, accepted: int) -> bool:
    """Whether accepted = delivered + pending + dead + discarded, by the rows and by the counters."""
    one = status_of(outbox, name)
    with reading(OutboxFiles(outbox)) as connection:
        assert connection is not None
        rows = connection.execute(
            "SELECT state, count(*) FROM delivery WHERE destination = "
            "(SELECT id FROM destination WHERE name = ?) GROUP BY state",
            (name,),
        ).fetchall()
    found = {int(str(state)): int(str(count)) for state, count in rows}
    told = {0: one.pending, 1: one.delivered, 2: one.dead, 3: one.discarded}
    return (
        found == {state: count for state, count in told.items() if count} and sum(told.values()) == accepted
    )


def wait_settled(outbox: Path) -> None:
    """Wait until everything was taken in and has ended."""
    until(lambda: settled(outbox))


__all__ = [
    "Keepline", "all_counted", "append", "configured", "document", "emit", "run", "said", "wait_settled",
]  # fmt: skip
