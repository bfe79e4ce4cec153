"""What is missing of a run, and what has to be emitted for that. It does no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from keepline.outbox.known import Known


class Kind(Enum):
    """The types of the events that are emitted."""

    START = "START"
    COMPLETE = "COMPLETE"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Expected:
    """The events that the provider emits of one OpenLineage run: of a DAG run, or of one try of a task.

    Args:
        run_id: its OpenLineage run id.
        job: the name of its job.
        state: Airflow's state.
        start_at: s since 1970: when its START was due; ``None`` when it has none.
        end_at: s since 1970: when the event was due that ends it; ``None`` when it has none, or none yet.
        end: the type of that one.
    """

    run_id: str
    job: str
    state: str
    start_at: float | None
    end_at: float | None
    end: Kind | None


@dataclass(frozen=True)
class Window:
    """The stretch of time that is reconciled.

    Args:
        since: s since 1970: events that were due before are left alone.
        until: s since 1970: events that are due later are left alone.
        settled: s since 1970: what was due later may still be on its way from a hook to the outbox.
    """

    since: float
    until: float
    settled: float

    def has(self, at: float | None) -> bool:
        """Whether an event that was due then is to be looked at."""
        return at is not None and self.since <= at <= self.until


@dataclass(frozen=True)
class Emission:
    """One event to emit.

    Args:
        kind: its type.
        repeated: whether the outbox has had it already, and it is emitted again to stand behind the START.
    """

    kind: Kind
    repeated: bool = False


@dataclass(frozen=True)
class Decision:
    """What to do about a run.

    Args:
        missing: what the outbox doesn't have; empty when only the order was wrong.
        emit: in this order.
    """

    missing: tuple[Kind, ...]
    emit: tuple[Emission, ...]


NOTHING = Decision((), ())


def decide(expected: Expected, known: Known, window: Window) -> Decision:
    """Compare what should be in the outbox of a run with what is.

    Receivers such as Marquez take a START behind the end for the run beginning again. So a START is never
    the last word about a run that has ended: the event that ends it follows, again if need be.

    Args:
        expected: what the provider emits of it.
        known: what the outbox has of it.
        window: which events are looked at.
    """
    start = window.has(expected.start_at) and not known.start
    end = window.has(expected.end_at) and not known.end
    if expected.end is None or expected.end_at is None:
        # Still under way, or of a kind that never gets one. If an end is known all the same, the database is
        # about to say so.
        return Decision((Kind.START,), (Emission(Kind.START),)) if start and not known.end else NOTHING
    if expected.end_at > window.settled:
        return NOTHING
    if start:
        missing = (Kind.START,) if known.end else (Kind.START, expected.end)
        return Decision(missing, (Emission(Kind.START), Emission(expected.end, repeated=known.end > 0)))
    if end:
        return Decision((expected.end,), (Emission(expected.end),))
    if window.has(expected.end_at) and known.start > known.end:
        return Decision((), (Emission(expected.end, repeated=True),))
    return NOTHING
