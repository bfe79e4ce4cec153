"""How two lists of events differ, as sets in which an event may be more than once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Event = dict[str, Any]

_MANY = 20  # left over of one kind: more are paired as they come, rather than each with what is most like it


class _Absent:
    """Stands for what isn't there, which isn't the same as null."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT: Any = _Absent()


@dataclass(frozen=True)
class Difference:
    """One place where two events differ.

    Args:
        path: of the place, for example ``run.facets.airflow.dag.tags[0]``.
        upstream: what stands there without Keepline.
        keepline: what stands there with it.
    """

    path: str
    upstream: Any
    keepline: Any

    def __str__(self) -> str:
        return f"{self.path}: upstream {_shown(self.upstream)}, keepline {_shown(self.keepline)}"


@dataclass(frozen=True)
class Mismatch:
    """An event that isn't the same on both sides, or isn't on both.

    Args:
        event: which.
        differences: between the two; empty when there is only one of them.
        what: ``differs``, ``missing`` with Keepline, or ``extra`` with it.
    """

    event: str
    what: str
    differences: tuple[Difference, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.what}: {self.event}", *(f"    {one}" for one in self.differences)]
        return "\n".join(lines)


def compare(upstream: list[Event], keepline: list[Event]) -> list[Mismatch]:
    """Compare the events of the two sides.

    Args:
        upstream: normalised events without Keepline.
        keepline: normalised events with it.

    Returns:
        what isn't equal; empty when the two are equal as sets with multiplicity.
    """
    ours, theirs = _counted(keepline), _counted(upstream)
    kinds: dict[str, tuple[list[Event], list[Event]]] = {}
    for number, left in enumerate((theirs - ours, ours - theirs)):
        for text in left.elements():
            event = json.loads(text)
            kinds.setdefault(title(event), ([], []))[number].append(event)
    return [
        mismatch for kind, (gone, come) in sorted(kinds.items()) for mismatch in _paired(kind, gone, come)
    ]


def differences(upstream: Any, keepline: Any, path: str = "") -> Iterator[Difference]:
    """Walk two values side by side, and tell each place where they differ."""
    if isinstance(upstream, dict) and isinstance(keepline, dict):
        for key in sorted(upstream.keys() | keepline.keys()):
            yield from differences(
                upstream.get(key, ABSENT), keepline.get(key, ABSENT), f"{path}.{key}" if path else key
            )
    elif isinstance(upstream, list) and isinstance(keepline, list):
        for index in range(max(len(upstream), len(keepline))):
            theirs, ours = (side[index] if index < len(side) else ABSENT for side in (upstream, keepline))
            yield from differences(theirs, ours, f"{path}[{index}]")
    # As JSON: true is not 1, and 1 is not 1.0.
    elif upstream is ABSENT or keepline is ABSENT or _text(upstream) != _text(keepline):
        yield Difference(path, upstream, keepline)


def title(event: Event) -> str:
    """What an event is about."""
    about: Event = event.get("job") or event.get("dataset") or {}
    which = (event.get("run") or {}).get("runId") or about.get("name", "?")
    return f"{event.get('eventType', 'event')} of {which}"


def _counted(events: list[Event]) -> Counter[str]:
    return Counter(map(_text, events))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _paired(kind: str, upstream: list[Event], keepline: list[Event]) -> Iterator[Mismatch]:
    while upstream and keepline:
        first = upstream.pop()
        closest = keepline if len(keepline) <= _MANY else keepline[-1:]
        found = min(closest, key=lambda one: sum(1 for _ in differences(first, one)))
        keepline.remove(found)
        yield Mismatch(kind, "differs", tuple(differences(first, found)))
    yield from (Mismatch(kind, "missing") for _ in upstream)
    yield from (Mismatch(kind, "extra") for _ in keepline)


def _shown(value: Any) -> str:
    return repr(value) if value is ABSENT else json.dumps(value, ensure_ascii=False)[:400]
