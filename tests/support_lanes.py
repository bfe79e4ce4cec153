"""What the tests of lanes share: events by name, what the ledger says of each delivery, commands."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from keepline.demo.destination import Received
from keepline.outbox.commands import Command, to_json
from keepline.outbox.files import OutboxFiles
from keepline.outbox.record import encode_command
from keepline.outbox.segments import segment_numbers, segment_path
from keepline.outbox.sqlite import reading

SLOW_TO_CHARGE: dict[str, Any] = {"poison_attempts": 1000, "poison_after": 1000}
QUICK_TO_BURY: dict[str, Any] = {"poison_attempts": 3, "poison_after": 0.05}


class Row(NamedTuple):
    """A delivery, as the ledger has it."""

    destination: str
    state: int
    attempts: int
    charged: int
    first_at: float | None
    charged_at: float | None
    status: int | None
    answer: str


def rows(outbox: Path) -> dict[str, Row]:
    """Each event's delivery, by the name of its job; of one destination, where an event is for several."""
    with reading(OutboxFiles(outbox)) as connection:
        if connection is None:
            return {}
        found = connection.execute(
            "SELECT job_name, name, delivery.state, attempts, charged, first_at, charged_at, status, answer "
            "FROM delivery JOIN event ON event.id = event JOIN destination ON destination.id = destination"
        ).fetchall()
    return {str(row[0]): Row(*row[1:]) for row in found}  # type: ignore[arg-type]


def order(outbox: Path, command: Command) -> None:
    """Append a command to the journal."""
    files = OutboxFiles(outbox)
    with segment_path(files, segment_numbers(files)[-1]).open("ab") as file:
        file.write(encode_command(to_json(command), time.time_ns()))


def name_of(request: Received) -> str:
    return str(json.loads(request.body)["job"]["name"])


def asked_about(destination: Any) -> list[str]:
    """The names of all events that a destination was sent, in order, whatever it made of them."""
    return [name_of(one) for one in destination.received]
