"""Counting what arrived at a destination: what is missing, what came twice, what came in the wrong order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

FIRST = "START"
LAST = frozenset({"COMPLETE", "FAIL", "ABORT"})


@dataclass(frozen=True)
class Tally:
    """What arrived at one destination.

    Args:
        expected: events that should have.
        delivered: different events that did.
        lost: expected and not delivered.
        duplicates: events that came again.
        out_of_order: runs of which the end came before the start.
    """

    expected: int
    delivered: int
    lost: int
    duplicates: int
    out_of_order: int

    @property
    def good(self) -> bool:
        """Whether nothing is missing and nothing came in the wrong order."""
        return self.lost == 0 and self.out_of_order == 0

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)


def tally(events: Iterable[Mapping[str, Any]], expected: int) -> Tally:
    """Count run events; one is told from another by its run and its type.

    Args:
        events: as a destination received them, in order.
        expected: how many different ones there should be.
    """
    seen: Counter[tuple[str, str]] = Counter()
    ended: set[str] = set()
    early: set[str] = set()
    for event in events:
        run, kind = event["run"]["runId"], event["eventType"]
        if kind == FIRST and run in ended and not seen[run, kind]:
            early.add(run)
        if kind in LAST:
            ended.add(run)
        seen[run, kind] += 1
    return Tally(
        expected=expected,
        delivered=len(seen),
        lost=max(expected - len(seen), 0),
        duplicates=sum(seen.values()) - len(seen),
        out_of_order=len(early),
    )
