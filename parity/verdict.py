"""What the two captures of a version come to: for each DAG its events on both sides, and how they differ."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from parity.capture import LEGS, Capture
from parity.differ import Difference, Event, Mismatch, compare
from parity.normalise import Normaliser, derived, without_chance


@dataclass(frozen=True)
class Verdict:
    """Of one DAG.

    Args:
        dag: its id.
        upstream: how many events arrived without Keepline, by leg.
        keepline: the same with it.
        mismatches: by leg.
    """

    dag: str
    upstream: tuple[int, ...]
    keepline: tuple[int, ...]
    mismatches: tuple[tuple[str, Mismatch], ...]


def judge(
    upstream: Capture,
    keepline: Capture,
    *,
    dated_by_airflow: Collection[str] = (),
    ended_from_outside: Collection[str] = (),
    silent: Collection[str] = (),
) -> list[Verdict]:
    """Compare two captures, DAG by DAG.

    Args:
        upstream: without Keepline.
        keepline: with it.
        dated_by_airflow: DAGs whose runs' dates, and with them ids, Airflow chooses.
        ended_from_outside: DAGs whose runs are ended while a task runs.
        silent: DAGs that have a verdict even without an event.
    """
    counts: dict[str, tuple[list[int], list[int]]] = {}
    mismatches: dict[str, list[tuple[str, Mismatch]]] = {}
    for leg in LEGS:
        sides = [(_by_dag(one, leg, ended_from_outside), _names(one, leg)) for one in (upstream, keepline)]
        (theirs, their_names), (ours, our_names) = sides
        for dag in {*theirs, *ours, *silent}:
            pair = (theirs.get(dag, []), ours.get(dag, []))
            for into, events in zip(counts.setdefault(dag, ([], [])), pair, strict=True):
                into.append(len(events))
            mismatches.setdefault(dag, []).extend((leg, one) for one in compare(*pair))
        for dag, one in _ids(their_names, our_names, dated_by_airflow):
            mismatches.setdefault(dag, []).append((leg, one))
    return [
        Verdict(dag, tuple(theirs), tuple(ours), tuple(mismatches.get(dag, [])))
        for dag, (theirs, ours) in sorted(counts.items())
    ]


def _names(capture: Capture, leg: str) -> dict[str, str]:
    return dict(Normaliser.of(capture.events[leg], capture.began, capture.ended).names)


def _by_dag(capture: Capture, leg: str, ended_from_outside: Collection[str]) -> dict[str, list[Event]]:
    events = capture.events[leg]
    normaliser = Normaliser.of(events, capture.began, capture.ended)
    found: dict[str, list[Event]] = {}
    for event in events:
        dag, normal = dag_of(event), normaliser.event(event)
        found.setdefault(dag, []).append(without_chance(normal) if dag in ended_from_outside else normal)
    return found


def dag_of(event: Event) -> str:
    """The DAG that an event belongs to: its job is a DAG, or a task of one."""
    about: Event = event.get("job") or event.get("dataset") or {}
    return str(about.get("name", "?")).split(".")[0]


def _ids(
    upstream: dict[str, str], keepline: dict[str, str], dated_by_airflow: Collection[str]
) -> list[tuple[str, Mismatch]]:
    """The runs whose ids should be the same on both sides and aren't, with their DAGs."""
    theirs, ours = ({name: run_id for run_id, name in names.items()} for names in (upstream, keepline))
    return [
        (
            name.removeprefix("<run ").split(" ")[0].split(".")[0],
            Mismatch(f"id of {name}", "differs", (Difference("run.runId", theirs[name], ours[name]),)),
        )
        for name in sorted(theirs.keys() & ours.keys())
        if theirs[name] != ours[name] and derived(name, dated_by_airflow)
    ]
