"""What an operator asks of the relay: a record in the journal, applied by the relay in its turn.

So the ledger has one writer, and a command outlives whatever dies between its appending and its doing.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from keepline.errors import OutboxDamaged
from keepline.outbox.delivery import DeliveryState
from keepline.outbox.ledger import Ledger

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Replay:
    """Deliver events to a destination again, dead letters and delivered ones, and those it never had.

    Args:
        ledger: identity of the ledger in which the events' ids were found.
        destination: its name.
        events: ids.
    """

    kind: ClassVar[str] = "replay"
    ledger: str
    destination: str
    events: tuple[int, ...]

    def apply(self, ledger: Ledger) -> None:
        """Make them pending."""
        found = _find(ledger, self)
        if found is None:
            return
        with ledger.transaction():
            for event in self.events:
                state = ledger.db.execute(
                    "SELECT state FROM delivery WHERE destination = ? AND event = ?", (found, event)
                ).get
                if state == DeliveryState.PENDING:
                    continue
                ledger.db.execute(
                    "INSERT INTO delivery (destination, event, state) "
                    "SELECT ?, id, 0 FROM event WHERE id = ? "
                    "ON CONFLICT (destination, event) DO UPDATE SET state = 0, attempts = 0, charged = 0, "
                    "charged_at = NULL, first_at = NULL, ended_at = NULL",
                    (found, event),
                )
                if state is not None and ledger.db.changes():
                    ledger.count(found, DeliveryState(state), -1)


@dataclass(frozen=True)
class Discard:
    """Let go of dead letters.

    Args:
        ledger: identity of the ledger in which the events' ids were found.
        destination: its name.
        events: ids.
    """

    kind: ClassVar[str] = "discard"
    ledger: str
    destination: str
    events: tuple[int, ...]

    def apply(self, ledger: Ledger) -> None:
        """Make them discarded; retention lets them go."""
        found = _find(ledger, self)
        if found is None:
            return
        with ledger.transaction():
            for event in self.events:
                ledger.db.execute(
                    "UPDATE delivery SET state = 3, ended_at = ? "
                    "WHERE destination = ? AND event = ? AND state = 2",
                    (time.time(), found, event),
                )
                changed = ledger.db.changes()
                ledger.count(found, DeliveryState.DEAD, -changed)
                ledger.count(found, DeliveryState.DISCARDED, changed)


@dataclass(frozen=True)
class Resume:
    """Try a destination that is out or paused at once.

    Args:
        destination: its name; ``None`` for all.
    """

    kind: ClassVar[str] = "resume"
    destination: str | None

    def apply(self, ledger: Ledger) -> None:
        """Nothing to write: the lanes do it."""


@dataclass(frozen=True)
class Forget:
    """Drop what waits for a destination that is out of the configuration, its dead letters, and its name.

    Args:
        ledger: identity of the ledger in which it was found.
        destination: its name.
    """

    kind: ClassVar[str] = "forget"
    ledger: str
    destination: str

    def apply(self, ledger: Ledger) -> None:
        """Delete it, unless it is in the configuration again."""
        found = _find(ledger, self)
        if found is None:
            return
        with ledger.transaction():
            db = ledger.db
            if not db.execute("SELECT active FROM destination WHERE id = ?", (found,)).get:
                db.execute("DELETE FROM delivery WHERE destination = ?", (found,))
                db.execute("DELETE FROM destination WHERE id = ?", (found,))


Command = Replay | Discard | Resume | Forget
_KINDS: dict[str, type[Any]] = {one.kind: one for one in (Replay, Discard, Resume, Forget)}


def to_json(command: Command) -> bytes:
    """A command as it stands in the journal.

    Args:
        command: what is asked.
    """
    return json.dumps({"do": command.kind, **asdict(command)}).encode()


def from_json(body: bytes) -> Command:
    """A command that stands in the journal.

    Args:
        body: its JSON.

    Raises:
        OutboxDamaged: it isn't one, or a newer Keepline's.
    """
    try:
        document = json.loads(body)
        kind: type[Any] = _KINDS[document.pop("do")]
        command: Command = kind(**{key: _value(key, value) for key, value in document.items()})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise OutboxDamaged(
            f"a command in the journal isn't known here ({error}); give it again with this version"
        ) from error
    return command


def _value(key: str, value: Any) -> Any:
    # Whatever SQLite couldn't take would stop the relay at this record for ever.
    if key == "events":
        if not all(type(one) is int and 0 < one < 2**63 for one in value):
            raise ValueError(f"{key} are no ids")
        return tuple(value)
    if isinstance(value, str):
        value.encode()
    elif value is not None or key != "destination":
        raise ValueError(f"{key} is no text")
    return value


def _find(ledger: Ledger, command: Replay | Discard | Forget) -> int | None:
    """The id of the destination that a command is about; ``None`` where it can't be done, which is logged."""
    found = ledger.ident_of(command.destination)
    if ledger.identity != command.ledger:
        why = "the ledger was made anew since, and what it knows isn't what was meant; give it again"
    elif found is None:
        why = "the ledger knows no such destination"
    else:
        return found
    log.warning("ignored a command (%s) about `%s`: %s", command.kind, command.destination, why)
    return None
