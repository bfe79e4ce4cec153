"""What can't be equal in two runs, and nothing else: times of the runs, and ids made of them or by chance.

- A time that lies within the run of the check it was seen in becomes ``<time>``, with its offset from UTC.
  Dates that the check gives (logical dates, intervals, nominal times) lie outside and are compared.
- A run id becomes the name of its run, wherever it stands, so that parents and roots are compared as a graph:
  the job's name and Airflow's run id, try and map index. Ids that the provider derives from what the check
  gives are compared as they are, too: see :func:`derived`.
- What was measured, in seconds, becomes ``<seconds>``.
- The random end of the run id of an asset-triggered run becomes ``<random>``, the number of a process in the
  message of a time limit ``<pid>``, and the id that Airflow gives to a version of a DAG ``<id>``.
- What the last event of a run that was ended from outside tells of its tasks becomes ``<by chance>``: see
  :func:`without_chance`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

Event = dict[str, Any]

# Also as it stands in a URL.
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d(?::|%3A)\d\d(?::|%3A)\d\d(?:\.\d+)?(Z|(?:[+-]|%2B)\d\d(?::|%3A)\d\d)?"
)
_UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_PID = re.compile(r"\bPID: \d+")
_LASTED = re.compile(r"\brun duration of \d+\.\d+ seconds")
_RANDOM = re.compile(r"(_triggered__<time[^>]*>)_[0-9A-Za-z]{8}\b")
_MEASURED = (("taskInstance", "duration"), ("dagRun", "duration"), ("tasksDuration", None))
_QUERY = re.compile(r"\.(manual_)?query\.\d+$")  # what a task asked a database: its run's id is random
_VERSION = "dag_version_id"


@dataclass(frozen=True)
class Normaliser:
    """Makes the events of one run comparable with those of another.

    Args:
        began: of the run, in seconds since the epoch.
        ended: of the run.
        names: of OpenLineage's runs, by run id.
    """

    began: float
    ended: float
    names: Mapping[str, str]

    @classmethod
    def of(cls, events: Iterable[Event], began: float, ended: float) -> Normaliser:
        """Make the one for these events of a run."""
        return cls(began, ended, run_names(list(events), cls(began, ended, {})))

    def event(self, event: Event) -> Event:
        """The event as it can be compared."""
        normal: Event = self._value(event, ())
        return normal

    def text(self, text: str) -> str:
        """A text as it can be compared."""
        text = _UUID.sub(lambda found: self.names.get(found[0], found[0]), text)
        text = _RANDOM.sub(r"\1_<random>", _TIME.sub(self._time, text))
        return _LASTED.sub("run duration of <seconds>", _PID.sub("PID: <pid>", text))

    def _value(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, str):
            return "<id>" if path[-1:] == (_VERSION,) else self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self._value(one, (*path, key)) for key, one in value.items()}
        if isinstance(value, list):
            return [self._value(one, path) for one in value]
        if isinstance(value, (int, float)) and _is_measured(path):
            return "<seconds>"
        return value

    def _time(self, found: re.Match[str]) -> str:
        text = found[0].replace("%3A", ":").replace("%2B", "+").replace("Z", "+00:00")
        when = datetime.fromisoformat(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=timezone.utc)
        if self.began <= when.timestamp() <= self.ended:
            return f"<time{(found[1] or '').replace('%3A', ':').replace('%2B', '+')}>"
        return found[0]


def run_names(events: list[Event], normaliser: Normaliser) -> dict[str, str]:
    """Name each run, by what its events say of it; equal names are numbered in the order of their beginnings.

    Args:
        events: of one run of the check.
        normaliser: for the ids that Airflow gives its runs, which may have times in them.
    """
    named: dict[str, list[tuple[str, str]]] = {}
    firsts: dict[str, tuple[str, str]] = {}
    for event in events:
        if (run := event.get("run")) is None:
            continue
        seen = (event["eventTime"], _name(event, normaliser))
        firsts[run["runId"]] = min(firsts.get(run["runId"], seen), seen)
    for run_id, (began, name) in firsts.items():
        named.setdefault(name, []).append((began, run_id))
    return {
        run_id: f"<run {name}>" if len(runs) == 1 else f"<run {name} no. {number}>"
        for name, runs in named.items()
        for number, (_, run_id) in enumerate(sorted(runs), 1)
    }


def _name(event: Event, normaliser: Normaliser) -> str:
    facets = event["run"].get("facets", {})
    airflow = facets.get("airflow") or facets.get("airflowDagRun") or {}
    words = [event["job"]["name"]]
    if run_id := airflow.get("dagRun", {}).get("run_id"):
        words.append(normaliser.text(run_id))
    instance = airflow.get("taskInstance", {})
    words += [
        f"{name} {instance[name]}" for name in ("try_number", "map_index") if instance.get(name) is not None
    ]
    return " ".join(words)


def derived(name: str, dated_by_airflow: Collection[str]) -> bool:
    """Whether the id of a run is derived from what the check gives, so that it has to be the same each time.

    Args:
        name: of the run.
        dated_by_airflow: the DAGs of whose runs Airflow gives the dates.
    """
    job = name.removeprefix("<run ").split(" ")[0].rstrip(">")
    return job.split(".")[0] not in dated_by_airflow and not _QUERY.search(job)


def without_chance(event: Event) -> Event:
    """A normal event of a run that was ended while its tasks ran, without the tasks' states and durations.

    The provider reads them in its pool's worker while Airflow is about to commit the end: whether it finds
    those from before or from after the commit is a matter of luck.
    """
    facets = event.get("run", {}).get("facets", {})
    if "airflowState" not in facets:
        return event
    state = {**facets["airflowState"], "tasksState": "<by chance>", "tasksDuration": "<by chance>"}
    return {**event, "run": {**event["run"], "facets": {**facets, "airflowState": state}}}


def _is_measured(path: tuple[str, ...]) -> bool:
    return (
        any(path[-2] == above and key in (None, path[-1]) for above, key in _MEASURED)
        if len(path) > 1
        else False
    )
