"""The destinations that an outbox knows, for those who ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from keepline.outbox.files import OutboxFiles
from keepline.outbox.snapshot import snapshot


@dataclass(frozen=True)
class Known:
    """A destination.

    Args:
        ledger: identity of the ledger that knows it.
        name: of it.
        active: whether the relay that ran last had it.
        pending: deliveries that wait.
        dead: dead letters.
        why: its lane's state and the reason, where it isn't open.
    """

    ledger: str
    name: str
    active: bool
    pending: int
    dead: int
    why: str = ""


def known_destinations(files: OutboxFiles) -> dict[str, Known]:
    """Every destination that a relay has had and nobody has forgotten, by name.

    Args:
        files: the outbox.

    Raises:
        OutboxError: the outbox can't be read.
    """
    with snapshot(files) as db:
        rows = db.execute(
            "SELECT (SELECT identity FROM ledger), name, active, "
            "(SELECT count(*) FROM delivery WHERE destination = destination.id AND state = 0), "
            "(SELECT count(*) FROM delivery WHERE destination = destination.id AND state = 2), "
            "CASE WHEN reason <> '' THEN state || ': ' || reason ELSE '' END "
            "FROM destination ORDER BY name"
        ).fetchall()
    return {
        name: Known(ledger, name, bool(active), pending, dead, why)
        for ledger, name, active, pending, dead, why in cast(
            "list[tuple[str, str, int, int, int, str]]", rows
        )
    }
