"""``keepline reconcile`` beside both Airflows, on databases whose states are written into them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from tests.integration.airflow_support import KEEPLINE, Airflow, airflow
from tests.support_cli import Keepline

from keepline.airflow.reconcile.range import GRACE
from keepline.event import Event
from keepline.outbox.batch import backlog
from keepline.outbox.files import OutboxFiles
from keepline.outbox.journal import Producer
from keepline.outbox.record import encode
from keepline.outbox.segments import segment_numbers

__all__ = ["airflow"]

SOURCES = Path(__file__).parents[2] / "src"

DAG = """\
from datetime import datetime

try:
    from airflow.providers.standard.operators.bash import BashOperator
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.providers.standard.operators.python import PythonOperator
    from airflow.sdk import DAG
except ImportError:
    from airflow import DAG
    from airflow.operators.bash import BashOperator
    from airflow.operators.empty import EmptyOperator
    from airflow.operators.python import PythonOperator

from airflow.providers.openlineage.utils.selective_enable import enable_lineage

with DAG("many", schedule=None, start_date=datetime(2020, 1, 1), catchup=False, doc_md="# Grüße") as dag:
    for name in ("success", "failed", "up_for_retry", "skipped", "running", "deferred", "queued",
                 "upstream_failed", "removed"):
        PythonOperator(task_id=name, python_callable=print, owner="amy, bob")
    EmptyOperator(task_id="empty")
    BashOperator(task_id="bash", bash_command="true")
    BashOperator.partial(task_id="mapped").expand(bash_command=["true"])

with DAG("chosen", schedule=None, start_date=datetime(2020, 1, 1), catchup=False) as chosen:
    enable_lineage(PythonOperator(task_id="one", python_callable=print))
    PythonOperator(task_id="other", python_callable=print)
"""

NOW = datetime.now(timezone.utc)
EARLIER = NOW - timedelta(hours=1)


@dataclass
class World:
    """An Airflow with a database of its own, and an outbox.

    Args:
        airflow: the environment.
        database: the file.
    """

    airflow: Airflow
    database: Path
    legs: dict[str, Any] = field(
        default_factory=lambda: {"http": {"type": "http", "url": "http://here.invalid"}}
    )

    @property
    def outbox(self) -> OutboxFiles:
        return OutboxFiles(self.airflow.home / "keepline")

    def events(self) -> list[dict[str, Any]]:
        """All that is in the journal, in order; nothing takes it in."""
        return [
            json.loads(entry.body)
            for number in segment_numbers(self.outbox)
            for entry in backlog(self.outbox, number, 0)
        ]

    def jobs(self) -> Counter[tuple[str, str]]:
        return Counter((event["job"]["name"], event["eventType"]) for event in self.events())

    def write(self, statement: str, **values: object) -> None:
        with closing(sqlite3.connect(self.database, timeout=30)) as database, database:
            assert database.execute(statement, values).rowcount > 0, statement

    def reconcile(self, *options: str, **env: str) -> dict[str, Any]:
        said = self.airflow.command(
            "keepline", "reconcile", "--json", "--yes", "--from", "2d", *options, env=env
        )
        document: dict[str, Any] = json.loads(said)
        return document

    def error(self, *options: str, **env: str) -> str:
        """What the command says when it fails."""
        done = subprocess.run(
            [str(self.airflow.python.with_name("keepline")), "reconcile", *options],
            env={**self.airflow.env, **env},
            cwd=self.airflow.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == 1, done.stderr
        assert not done.stdout
        return done.stderr.splitlines()[-1]


def moment(seconds: float) -> str:
    return in_db(EARLIER.timestamp() + seconds)


def in_db(at: float) -> str:
    """A time as it stands in the database."""
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")


def set_run(world: World, dag_id: str, state: str, *, end: float | None = 60.0) -> None:
    world.write(
        "UPDATE dag_run SET state = :state, start_date = :start, end_date = :end WHERE dag_id = :dag_id",
        state=state,
        start=moment(0),
        end=None if end is None else moment(end),
        dag_id=dag_id,
    )


def set_task(world: World, dag_id: str, task_id: str, state: str, *, host: str = "host") -> None:
    ended = state in ("success", "failed", "up_for_retry", "skipped", "upstream_failed")
    world.write(
        "UPDATE task_instance SET state = :state, start_date = :start, end_date = :end, hostname = :host, "
        "try_number = 1, map_index = :map_index WHERE dag_id = :dag_id AND task_id = :task_id",
        state=state,
        start=moment(1),
        end=moment(2) if ended else None,
        host=host,
        map_index=0 if task_id == "mapped" else -1,
        dag_id=dag_id,
        task_id=task_id,
    )


@pytest.fixture
def world(airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two DAGs with a run each, which is queued; the outbox has had one event, of something else."""
    airflow.env["PYTHONPATH"] = str(SOURCES)
    database = airflow.home / "airflow.db"
    airflow.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{database}"
    template = tmp_path_factory.getbasetemp() / f"reconcile-{airflow.version}.db"
    if not template.exists():
        shutil.copyfile(airflow.database, database)
        make_runs(airflow)
        shutil.copyfile(database, template)
    shutil.copyfile(template, database)
    one = World(airflow, database)
    airflow.transport({"type": KEEPLINE, "relay": "external", "transports": one.legs})
    append(one, {"eventType": "START", "run": {"runId": "other"}, "job": {"name": "other", "namespace": "n"}})
    return one


def make_runs(airflow: Airflow) -> None:
    (airflow.home / "dags").mkdir()
    (airflow.home / "dags" / "many.py").write_text(DAG)
    env = {"AIRFLOW__OPENLINEAGE__DISABLED": "True", "AIRFLOW__CORE__DAGS_FOLDER": str(airflow.home / "dags")}
    airflow.command("airflow", "dags", "reserialize", env=env)
    for dag_id in ("many", "chosen"):
        airflow.command("python", str(SOURCES / "keepline/demo/airflow_runs.py"), dag_id, "1", "run", env=env)


def append(world: World, *events: dict[str, Any], at: float | None = None) -> None:
    """Append events, now or as if at a time."""
    world.outbox.create()
    producer = Producer(world.outbox, segment_bytes=1 << 24, lock_timeout=5.0)
    try:
        for event in events:
            one = Event.from_json(json.dumps(event).encode())
            producer.put(encode(one, time.time_ns() if at is None else int(at * 1e9)))
    finally:
        producer.close()


def without(world: World, job: str, *types: str) -> list[dict[str, Any]]:
    """Begin the outbox anew with all its events but some; gives those."""
    events = world.events()
    gone = [event for event in events if event["job"]["name"] == job and event["eventType"] in types]
    shutil.rmtree(world.outbox.folder)
    append(world, *(event for event in events if event not in gone))
    return gone


STATES = ("success", "failed", "up_for_retry", "skipped", "running", "deferred", "upstream_failed", "removed")


def test_each_state_has_its_events_once(world: World) -> None:
    set_run(world, "many", "running", end=None)
    for state in STATES:
        set_task(world, "many", state, state)
    set_task(world, "many", "queued", "queued", host="")
    set_task(world, "many", "empty", "success", host="")
    set_task(world, "many", "bash", "success")
    set_task(world, "many", "mapped", "success")

    done = world.reconcile("--dag", "many")
    ends = {
        "success": "COMPLETE",
        "failed": "FAIL",
        "up_for_retry": "FAIL",
        "bash": "COMPLETE",
        "mapped": "COMPLETE",
    }
    if not world.airflow.is_2:
        ends["skipped"] = "COMPLETE"  # Airflow 2 tells no listener of it.
    expected = {("many", "START"): 1, ("other", "START"): 1}
    for task in ("success", "failed", "up_for_retry", "skipped", "running", "deferred", "bash", "mapped"):
        expected["many." + task, "START"] = 1
        if task in ends:
            expected["many." + task, ends[task]] = 1
    assert world.jobs() == expected
    assert done["emitted"] == sum(expected.values()) - 1
    assert (done["failed"], done["failures"], done["repeated"]) == (0, [], 0)

    emitted = [event for event in world.events() if event["job"]["name"] != "other"]
    assert all("keepline_reconciled" in event["run"]["facets"] for event in emitted)
    by_job = {(event["job"]["name"], event["eventType"]): event for event in emitted}
    end = by_job["many.success", "COMPLETE"]
    assert datetime.fromisoformat(end["eventTime"]) == EARLIER + timedelta(seconds=2)
    owners = [owner["name"] for owner in end["job"]["facets"]["ownership"]["owners"]]
    assert owners == ["amy", "bob"]
    parent = end["run"]["facets"]["parent"]["run"]["runId"]
    assert parent == by_job["many", "START"]["run"]["runId"]
    assert by_job["many.mapped", "START"]["run"]["facets"]["airflow_mappedTask"]["mapIndex"] == 0
    assert by_job["many", "START"]["job"]["facets"]["documentation"]["description"] == "# Grüße"

    assert world.reconcile("--dag", "many")["emitted"] == 0
    # It ends, and so do its tasks that had not.
    set_run(world, "many", "failed")
    set_task(world, "many", "running", "failed")
    later = world.reconcile("--dag", "many")
    assert later["missing"] == {"FAIL": 2}
    assert world.jobs() == {**expected, ("many", "FAIL"): 1, ("many.running", "FAIL"): 1}
    last = world.events()[-1]
    assert last["run"]["facets"]["errorMessage"]["message"] == "task_failure"


def test_a_start_is_never_the_last_word_about_what_has_ended(world: World) -> None:
    set_run(world, "many", "success")
    set_task(world, "many", "success", "success")
    world.reconcile("--dag", "many")
    (start,) = without(world, "many", "START")
    without(world, "many.success", "START")
    done = world.reconcile("--dag", "many")
    assert (done["missing"], done["emitted"], done["repeated"]) == ({"START": 2}, 4, 2)
    *_, first, second, third, fourth = world.events()
    assert [one["eventType"] for one in (first, second, third, fourth)] == [
        "START",
        "START",
        "COMPLETE",
        "COMPLETE",
    ]
    assert first["run"]["runId"] == fourth["run"]["runId"] == start["run"]["runId"]
    assert second["run"]["runId"] == third["run"]["runId"]
    mark = fourth["run"]["facets"]["keepline_reconciled"]
    assert (mark["missing"], mark["repeated"]) == (["START"], True)

    # As if it had been killed before the last of them.
    shutil.rmtree(world.outbox.folder)
    append(world, fourth, first)
    done = world.reconcile("--dag", "many")
    assert world.events()[-1]["eventType"] == "COMPLETE"
    assert done["repeated"] == 1
    assert world.reconcile("--dag", "many")["emitted"] == 0


def test_it_emits_only_what_the_provider_would_and_was_asked_for(world: World) -> None:
    for dag_id in ("many", "chosen"):
        set_run(world, dag_id, "success")
    for dag_id, task_id in (("many", "bash"), ("many", "success"), ("chosen", "one"), ("chosen", "other")):
        set_task(world, dag_id, task_id, "success")
    chosen = {"AIRFLOW__OPENLINEAGE__SELECTIVE_ENABLE": "True"}
    assert world.reconcile("--dry-run", **chosen)["dags"] == {"chosen": {"START": 2, "COMPLETE": 2}}
    bash = "airflow.operators.bash.BashOperator" if world.airflow.is_2 else None
    bash = bash or "airflow.providers.standard.operators.bash.BashOperator"
    unwanted = world.reconcile(
        "--dry-run", "--dag", "many", AIRFLOW__OPENLINEAGE__DISABLED_FOR_OPERATORS=bash
    )
    assert unwanted["missing"] == {"START": 2, "COMPLETE": 2}
    filtered = json.dumps([{"type": "exact", "match": "many.success"}])
    assert world.reconcile("--dry-run", "--dag", "many", OPENLINEAGE__FILTERS=filtered)["missing"] == {
        "START": 2,
        "COMPLETE": 2,
    }
    until = (EARLIER + timedelta(seconds=1.5)).isoformat()
    assert world.reconcile("--dry-run", "--to", until, "--dag", "many")["missing"] == {
        "START": 3,
        "COMPLETE": 3,
    }
    assert world.reconcile("--dry-run", "--to", "90m", "--dag", "many")["missing"] == {}
    assert len(world.events()) == 1


def test_it_says_why_it_can_not_be_done(world: World) -> None:
    assert "switched off" in world.error(AIRFLOW__OPENLINEAGE__DISABLED="True")
    console = world.error(AIRFLOW__OPENLINEAGE__TRANSPORT='{"type": "console"}')
    assert "isn't `keepline.Transport`" in console
    nowhere = world.error(AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="sqlite:////nowhere/airflow.db")
    assert "can't read Airflow's metadata database sqlite:////nowhere/airflow.db" in nowhere
    assert "--yes" in world.error("--from", "2d")
    shutil.rmtree(world.outbox.folder)
    assert f"no outbox at {world.outbox.folder}" in world.error()


def test_without_airflow_it_says_where_to_run_it(keepline: Keepline) -> None:
    one = keepline("reconcile")
    assert one.end() == 1
    assert "no Airflow with its OpenLineage provider" in one.output


def test_what_may_still_be_under_way_is_not_missing(world: World) -> None:
    world.write(
        "UPDATE dag_run SET state = 'running', start_date = :start WHERE dag_id = 'many'",
        start=in_db(time.time() - 5),
    )
    assert world.reconcile("--dag", "many", "--grace", "3600")["emitted"] == 0
    assert world.reconcile("--dag", "many", "--grace", "1")["emitted"] == 1


@pytest.mark.parametrize(("wanted", "started"), [("True", 1), ("neither", 0)])
def test_a_scheduler_that_starts_has_a_process_reconcile_that_ends_with_it(
    world: World, wanted: str, started: int
) -> None:
    env = {"AIRFLOW__KEEPLINE__RECONCILE_ON_START": wanted}
    found = world.airflow.script("reconcile_start", ["scheduler"], env=env)
    assert found.result == {"started": started, "left": []}
    assert started or len(found.lines("`[keepline] reconcile_on_start`")) == 1


def test_the_process_beside_a_scheduler_emits_what_was_due_before_that_started(world: World) -> None:
    shutil.rmtree(world.outbox.folder)
    beside = "from keepline.airflow.reconcile.beside import main; main()"
    started = time.time() - GRACE
    # As its scheduler, which is its parent.
    command = ("python", "-c", beside, str(os.getpid()), str(started))
    world.airflow.command(*command)
    assert not world.outbox.folder.exists()

    event = {"eventType": "START", "run": {"runId": "other"}, "job": {"name": "other", "namespace": "n"}}
    append(world, event, at=EARLIER.timestamp() - 1)
    set_run(world, "many", "success")
    set_task(world, "many", "success", "success")
    world.write(
        "UPDATE dag_run SET state = 'running', start_date = :at WHERE dag_id = 'chosen'",
        at=in_db(started + 1),
    )
    world.airflow.command(*command)
    assert Counter(job for job, _ in world.jobs()) == {"other": 1, "many": 2, "many.success": 2}
    world.airflow.command(*command)
    assert world.jobs().total() == 5
