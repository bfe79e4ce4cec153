"""What happens to the Airflow of either run: the same, in the same order, whoever emits the events."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from keepline.demo.destination import RecordingDestination
from parity.api import Api
from parity.live import LiveAirflow

_TASK_SECONDS = 600.0
_ALL_SECONDS = 1500.0
_QUIET_SECONDS = 10.0
_OVER = ("success", "failed")

SIMPLE = (
    "run_over_its_time",
    "success",
    "failure",
    "retry",
    "skip",
    "ended",
    "mapped",
    "groups",
    "setup_teardown",
    "setup_fails",
    "deferrable",
    "reschedule",
    "asset_producer",
    "triggering",
    "cleared",
    "sql",
    "extractors",
    "disabled_operators",
    "hook_lineage",
    "emits_itself",
)
SELECTIVE = ("chosen", "not_chosen", "not_chosen_at_all")
WORDS = "größe_東京_Ωμέγα"

# The dates of these DAGs' runs are given by Airflow, and OpenLineage's run ids are made of dates.
DATED_BY_AIRFLOW = frozenset({"asset_consumer", "triggered_now"})

# The runs of these DAGs are ended from outside while a task of theirs runs.
ENDED_FROM_OUTSIDE = frozenset({"run_over_its_time", "run_set_to_success", "run_set_to_failed"})

# What a run says that is part of a greater one outside of Airflow.
_OUTER = {
    "openlineage": {
        "parentRunId": "01890a5d-ac96-774b-bcce-b302099a8057",
        "parentJobNamespace": "outer",
        "parentJobName": "outer.job",
        "rootParentRunId": "01890a5d-ac96-774b-bcce-b302099a8058",
        "rootParentJobNamespace": "outer",
        "rootParentJobName": "outermost",
    },
    "größe": ["東京", "🙂", None, 0.1, 12345678901234567890],
}


@dataclass
class Scenario:
    """Drives one Airflow through everything.

    Args:
        airflow: started.
        http: the destination that both runs' events go to first; it tells when a task has started.
        say: told what is going on.
    """

    airflow: LiveAirflow
    http: RecordingDestination
    say: Callable[[str], None]
    _runs: dict[str, int] = field(default_factory=dict)
    _day: int = 0

    def __post_init__(self) -> None:
        self._api = Api(self.airflow.api_url, is_2=self.airflow.is_2)

    def main(self) -> None:
        """Everything but what needs other options."""
        for dag in SIMPLE:
            self._trigger(dag)
        self._trigger(WORDS, conf=_OUTER)
        self._runs |= {"asset_consumer": 1, "triggered_at_a_date": 1, "triggered_now": 1, "daily": 2}
        with self._backfill():
            self._by_hand()
            self._trigger("many")
            self._ended("cleared", "ended_task_set_to_failed")
            self._api.clear("cleared", "cleared-1", ["first", "second"])
            self._api.set_task_state(
                "ended_task_set_to_failed", "ended_task_set_to_failed-1", "first", "failed"
            )
        self.finish()

    def selective(self) -> None:
        """The DAGs that ``selective_enable`` chooses between."""
        for dag in SELECTIVE:
            self._trigger(dag)
        self.finish()

    def finish(self) -> None:
        """Wait until every run has ended and nothing more arrives."""
        self.say("waiting for the runs to end")
        self.airflow.wait_until(self._all_ended, _ALL_SECONDS, f"the end of all runs, {self._runs}")
        self.say("waiting for silence")
        self.quiet(_QUIET_SECONDS)

    def quiet(self, seconds: float) -> None:
        """Wait until nothing has arrived for a while."""
        before, since = -1, time.monotonic()
        while time.monotonic() - since < seconds:
            now = len(self.http.received)
            if now != before or self.http.in_flight:
                before, since = now, time.monotonic()
            time.sleep(0.2)

    def _trigger(self, dag: str, conf: object = None) -> None:
        # A day apart, so that no two runs have the same date.
        self._day += 1
        self._runs[dag] = 1
        self._api.trigger(dag, f"{dag}-1", f"2024-05-{self._day:02}T01:02:03.456789+00:00", conf)

    def _by_hand(self) -> None:
        self.say("setting states through the API")
        for dag, change in {
            "task_set_to_success": self._task_set("success"),
            "task_set_to_failed": self._task_set("failed"),
            "task_set_to_skipped": self._task_set("skipped"),
            "run_set_to_success": self._run_set("success"),
            "run_set_to_failed": self._run_set("failed"),
            "many_set_to_success": self._many_set,
        }.items():
            self._trigger(dag)
            self._started(dag)
            change(dag)
        self._trigger("ended_task_set_to_failed")

    def _task_set(self, state: str) -> Callable[[str], None]:
        return lambda dag: self._api.set_task_state(dag, f"{dag}-1", "waits", state)

    def _run_set(self, state: str) -> Callable[[str], None]:
        return lambda dag: self._api.set_run_state(dag, f"{dag}-1", state)

    def _many_set(self, dag: str) -> None:
        self._api.set_task_state(dag, f"{dag}-1", "waits", "success", downstream=True)

    def _started(self, dag: str) -> None:
        """Wait until the task that waits is known to have started, to Airflow and at the destination."""
        query = "SELECT state FROM task_instance WHERE dag_id = ? AND task_id = 'waits'"
        self.airflow.wait_until(
            lambda: self.airflow.query(query, dag) == [("running",)], _TASK_SECONDS, f"the start of {dag}"
        )
        self.airflow.wait_until(
            lambda: any(event.get("job", {}).get("name") == f"{dag}.waits" for event in self.http.events),
            _TASK_SECONDS,
            f"the START of {dag}.waits",
        )

    def _ended(self, *dags: str) -> None:
        def ended() -> bool:
            return all(self._states(dag) == ["success"] for dag in dags)

        self.airflow.wait_until(ended, _ALL_SECONDS, f"the end of {dags}")

    def _states(self, dag: str) -> list[str]:
        return [state for (state,) in self.airflow.query("SELECT state FROM dag_run WHERE dag_id = ?", dag)]

    def _all_ended(self) -> bool:
        runs: dict[str, list[Any]] = {}
        for dag, state in self.airflow.query("SELECT dag_id, state FROM dag_run"):
            runs.setdefault(dag, []).append(state)
        if any(len(runs.get(dag, [])) != count for dag, count in self._runs.items()):
            return False
        if any(state not in _OVER for states in runs.values() for state in states):
            return False
        busy = "SELECT 1 FROM task_instance WHERE state IN ('running', 'queued', 'scheduled', 'deferred')"
        return not self.airflow.query(busy)

    @contextlib.contextmanager
    def _backfill(self) -> Iterator[None]:
        """Make runs for two days of the past; on Airflow 2 in a process of its own, which has to end well."""
        self._runs["backfilled"] = 2
        first, last = "2024-02-01", "2024-02-02"
        if not self.airflow.is_2:
            self._api.backfill("backfilled", f"{first}T00:00:00Z", f"{last}T00:00:00Z")
            yield
            return
        process = self.airflow.command("dags", "backfill", "-s", first, "-e", last, "backfilled")
        yield
        self.airflow.wait_until(lambda: process.poll() is not None, _ALL_SECONDS, "the end of the backfill")
        if process.returncode:
            raise RuntimeError(f"the backfill ended with {process.returncode}\n{self.airflow.log('dags')}")
