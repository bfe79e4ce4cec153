from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.integration.airflow_support import KEEPLINE, Airflow, airflow

from keepline.demo.destination import Answer, Received, RecordingDestination
from keepline.demo.processes import with_variable
from keepline.outbox.batch import backlog
from keepline.outbox.files import OutboxFiles
from keepline.outbox.segments import segment_numbers

__all__ = ["airflow"]

DAG = Path(__file__).with_name("airflow_scripts") / "tasks_dag.py"
PROVIDER = {"AIRFLOW__KEEPLINE__TASK_EMISSION": "provider"}
# What is to be given up is given up in any case; what is not must come to its end before, however slow.
TIMEOUT = "AIRFLOW__OPENLINEAGE__EXECUTION_TIMEOUT"
SHORT, LONG = {TIMEOUT: "5"}, {TIMEOUT: "600"}
TIMES = ("eventTime", "start_date", "end_date", "duration")
GIVEN_UP = "takes more than [openlineage] execution_timeout, 5 s"


@dataclass(frozen=True)
class Ran:
    """A task that has run.

    Args:
        state: it ended in.
        notes: of what happened in its process.
        events: that it emitted.
        log: of the task.
    """

    state: str
    notes: list[str]
    events: list[dict[str, Any]]
    log: str

    @property
    def types(self) -> list[str]:
        return [event["eventType"] for event in self.events]

    def lines(self, text: str) -> list[str]:
        # Each once: what Airflow 3 prints of a task's log it prints twice.
        return sorted({line for line in self.log.splitlines() if text in line})


@pytest.fixture(autouse=True)
def home(airflow: Airflow) -> None:
    """Folders of the test's own."""
    (airflow.home / "dags").mkdir()
    shutil.copy(DAG, airflow.home / "dags" / "tasks.py")
    airflow.env["AIRFLOW__CORE__DAGS_FOLDER"] = str(airflow.home / "dags")
    airflow.env |= LONG
    airflow.env["AIRFLOW__LOGGING__BASE_LOG_FOLDER"] = str(airflow.home / "logs")


def transport(outbox: Path, url: str = "http://127.0.0.1:9", relay: str = "external") -> str:
    legs = {"one": {"type": "http", "url": url}}
    return json.dumps({"type": KEEPLINE, "outbox": str(outbox), "relay": relay, "transports": legs})


def run_all(airflow: Airflow, tasks: Mapping[str, tuple[str, Mapping[str, str]]]) -> dict[str, Ran]:
    """Run tasks, each in a DAG run of the same name, with a database and an outbox of its own."""
    variants, folders = {}, {}
    for number, (name, (task, env)) in enumerate(tasks.items()):
        folders[name] = folder = airflow.home / f"of-{number}"
        folder.mkdir()
        shutil.copy(airflow.database, folder / "airflow.db")
        own = {
            "TASK_NOTES": str(folder / "notes"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder / 'airflow.db'}",
            "AIRFLOW__OPENLINEAGE__TRANSPORT": transport(folder / "outbox"),
        }
        variants[name] = ([str(airflow.home / "dags" / "tasks.py"), task], {**own, **env})
    outcomes = airflow.variants("task", variants)
    ran = {}
    for name, (task, _) in tasks.items():
        logs = airflow.home.glob(f"logs/**/task_id={task}/attempt=*.log")
        log = "\n".join([outcomes[name].log, *(path.read_text() for path in logs)])
        ran[name] = _ran(outcomes[name].result["state"], log, folders[name])
    return ran


def _ran(state: str, log: str, folder: Path) -> Ran:
    lines = [line.split(maxsplit=1) for line in (folder / "notes").read_text().splitlines()]
    pids = {pid for pid, what in lines if what in ("executes", "hangs")}
    assert len(pids) == 1, lines
    files = OutboxFiles(folder / "outbox")
    bodies = [one.event.body for number in segment_numbers(files) for one in backlog(files, number, 0)]
    return Ran(state, [what for pid, what in lines if pid in pids], list(map(json.loads, bodies)), log)


def timeless(value: Any) -> Any:
    """An event without what tells when it was, for each has its own time."""
    if isinstance(value, dict):
        return {key: timeless(one) for key, one in value.items() if key not in TIMES}
    if isinstance(value, list):
        return list(map(timeless, value))
    return value


def test_a_task_is_not_forked_and_emits_what_it_would_in_a_fork(airflow: Airflow):
    ran = run_all(airflow, {"ours": ("plain", {}), "the provider's": ("plain", PROVIDER)})
    ours, theirs = ran["ours"], ran["the provider's"]
    assert (ours.state, ours.types) == ("success", ["START", "COMPLETE"])
    assert (ours.notes.count("forks"), theirs.notes.count("forks")) == (0, 2)
    assert ours.events[0]["inputs"][0]["name"] == "Straße"
    assert timeless(ours.events) == timeless(theirs.events)


def test_a_task_goes_on_without_what_hangs_or_fails(airflow: Airflow):
    ran = run_all(airflow, {"hangs": ("hangs", SHORT), "raises": ("raises", {})})
    assert {one.state for one in ran.values()} == {"success"}
    assert with_variable("AIRFLOW_HOME", str(airflow.home)) == []

    hung = ran["hangs"]
    assert set(hung.notes) == {"hangs", "executes"}
    assert [len(hung.lines(f"{name} {GIVEN_UP}")) for name in ("on_running", "on_success")] == [1, 1]
    assert hung.events == []

    failed = ran["raises"].lines("no impact on task status")
    assert ["SystemExit" in failed[0], "KeyboardInterrupt" in failed[1], len(failed)] == [True, True, 2]
    assert "Traceback" not in ran["raises"].log


def test_what_a_task_has_given_up_is_emitted_while_it_goes_on(airflow: Airflow):
    ran = run_all(airflow, {"it": ("late", SHORT)})["it"]
    assert (ran.state, len(ran.lines(GIVEN_UP))) == ("success", 1)
    assert ran.types == ["START", "COMPLETE"]


def test_a_task_waits_for_no_destination(airflow: Airflow, destination: RecordingDestination, outbox: Path):
    ended = threading.Event()

    def answer_in_the_end(_: Received) -> Answer:
        ended.wait(120)
        return Answer(201)

    destination.answer_with(answer_in_the_end)
    slow = {"AIRFLOW__OPENLINEAGE__TRANSPORT": transport(outbox, destination.url, "auto")}
    out = {"AIRFLOW__OPENLINEAGE__TRANSPORT": transport(airflow.home / "out", relay="auto")}
    ran = run_all(airflow, {"slow": ("plain", slow), "out": ("plain", out)})
    before = list(destination.events)
    ended.set()
    destination.wait_for(lambda it: len(it.events) == 2, 60)

    assert before == []
    for one in ran.values():
        assert one.state == "success"
        assert one.lines("takes more than") == []


def test_what_ends_a_task_ends_it_while_it_emits(airflow: Airflow):
    if airflow.is_2:
        ran = run_all(airflow, {"it": ("terminated", {})})["it"]
        assert (ran.state, ran.notes) == ("failed", ["hangs", "is killed"])
        assert ran.types == ["FAIL"]
    else:  # which tells the operator alone, and ends what doesn't end by that with SIGKILL
        ran = run_all(airflow, {"it": ("terminated", SHORT)})["it"]
        assert (ran.state, sorted(ran.notes)) == ("success", ["executes", "hangs", "is killed"])
        assert ran.types == ["COMPLETE"]


@pytest.mark.parametrize("airflow", ["3.3.2"], indirect=True)  # 2.11 has no supervisor
def test_a_task_and_what_it_has_given_up_get_each_its_own_answers(airflow: Airflow):
    ran = run_all(airflow, {"it": ("asks", SHORT)})["it"]
    assert ran.state == "success"
    assert sorted(ran.notes) == ["0.1=0.1 0.2=0.2", "8=8", "executes", "hangs"]


def test_a_thread_keeps_to_its_rules(airflow: Airflow):
    whats = ["overtaken", "crowd", "context", *(["session"] if airflow.is_2 else [])]
    outcomes = airflow.variants("emitters", {what: ([what], {TIMEOUT: "1"}) for what in whats})

    assert outcomes["overtaken"].result == ["COMPLETE", "of another thread"]
    (line,) = outcomes["overtaken"].lines("a later event of the task was emitted before it")
    assert "no impact on task status" in line

    none, refused = [None] * 4, "EmissionGivenUp"
    assert outcomes["crowd"].result == {"before": [*none, refused], "after": None, "emitted": [1]}
    assert outcomes["context"].result == "the task's"
    if airflow.is_2:
        found = {"shared": refused, "the thread's": None, "the owner's": None}
        assert outcomes["session"].result == found


def test_an_operator_chooses_the_thread_or_the_providers_way(airflow: Airflow):
    values = ("thread", "provider", " Provider", "fork")
    option = "AIRFLOW__KEEPLINE__TASK_EMISSION"
    outcomes = airflow.variants("emitters", {value: (["chosen"], {option: value}) for value in values})
    assert [outcomes[value].result for value in values] == [True, False, False, True]
    assert [len(outcomes[value].lines("`[keepline] task_emission`")) for value in values] == [0, 0, 0, 1]
