"""Airflows under other executors than a sandbox's own: their database, their workers, their pods."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from keepline.demo import processes
from keepline.demo.destination import RecordingDestination
from keepline.demo.sandbox import Sandbox, SandboxError
from keepline.demo.tally import Tally
from tests.acceptance.conftest import ENVIRONMENTS, Live

_POSTGRES = Path("/usr/lib/postgresql/15/bin")
_START_SECONDS = 60.0
_LOOK_EVERY = 0.2  # seconds; nothing tells when a database or a worker is ready

# Loaded by Airflow in each of its processes, by Airflow 3 twice in some: writes down each client made.
# One with the noop transport was made to read a configuration, and holds nothing.
_COUNT_CLIENTS = """\
import os
from pathlib import Path
from openlineage.client import OpenLineageClient

made = OpenLineageClient.__init__


def counted(self, *args, **kwargs):
    made(self, *args, **kwargs)
    if self.transport.kind != "noop":
        with Path(os.environ["CLIENTS_FILE"]).open("a") as out:
            out.write(f"{os.getpid()} {type(self.transport).__module__}.{type(self.transport).__name__}\\n")


if made.__name__ != "counted":
    OpenLineageClient.__init__ = counted
"""

WORK = {
    "work.py": """\
from datetime import datetime

try:
    from airflow.providers.standard.operators.python import PythonOperator
    from airflow.sdk import DAG
except ImportError:
    from airflow import DAG
    from airflow.operators.python import PythonOperator


def work():
    print("done")


with DAG("work", schedule=None, start_date=datetime(2020, 1, 1), catchup=False, max_active_runs=100) as dag:
    first, second, third = (PythonOperator(task_id=one, python_callable=work) for one in ("a", "b", "c"))
    first >> [second, third]
"""
}
"""DAG ``work``: three tasks."""
EVENTS_OF_WORK = 8

# What the KubernetesExecutor does, with processes for pods: each has a disk of its own that goes with it. The
# scheduler waits for each, as with the SequentialExecutor, for on SQLite nobody else may write meanwhile.
_PODS = """\
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from airflow.executors.base_executor import BaseExecutor

FOLDER = Path(os.environ["PODS"])


class PodExecutor(BaseExecutor):
    is_single_threaded = True
    is_local = True
    supports_pickling = False
    serve_logs = False
    numbers = itertools.count(1)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.waiting = []

    def execute_async(self, key, command, queue=None, executor_config=None):
        self.waiting.append((key, [sys.executable, "-m", *command]))

    def _process_workloads(self, workloads):
        for one in workloads:
            self.queued_tasks.pop(one.key)
            module = "airflow.sdk.execution_time.execute_workload"
            command = [sys.executable, "-m", module, "--json-string", one.model_dump_json()]
            self.running.add(one.key)
            self.waiting.append((one.key, command))

    def sync(self):
        waiting, self.waiting = self.waiting, []
        for key, command in waiting:
            number = next(self.numbers)
            disk = FOLDER / f"disk-{number}"
            disk.mkdir()
            env = {**os.environ, "AIRFLOW_HOME": str(disk), "HOME": str(disk)}
            env["AIRFLOW__OPENLINEAGE__TRANSPORT"] = env["POD_TRANSPORT"]
            with (FOLDER / f"{number}.log").open("wb") as log:
                code = subprocess.call(command, env=env, cwd=disk, stdout=log, stderr=log)
            (FOLDER / f"{number}.left").write_text(json.dumps(sorted(map(str, disk.rglob("*")))))
            shutil.rmtree(disk)
            self.success(key) if code == 0 else self.fail(key)

    def end(self):
        self.sync()

    def terminate(self):
        pass
"""


class Postgres:
    """A PostgreSQL server of a test's own: a new cluster, on a Unix socket alone.

    It refuses to run as root, and so runs as the user ``postgres`` then.
    """

    def __init__(self) -> None:
        self._as = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        # Not in a test's folder, which only its owner may enter; and a socket's path has to be short.
        self.folder = Path(tempfile.mkdtemp(prefix="keepline-pg-"))
        if self._as:
            shutil.chown(self.folder, "postgres", "postgres")
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        assert _POSTGRES.exists(), f"{_POSTGRES} is missing; run `python3 tools/have.py postgresql`"
        data = self.folder / "data"
        self._call("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = {
            "listen_addresses": "",
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "100",
        }
        command = [str(_POSTGRES / "postgres"), "-D", str(data), "-k", str(self.folder)]
        command += [f"--{name}={value}" for name, value in options.items()]
        with (self.folder / "log").open("wb") as log:
            self._server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", **self._as
            )
        deadline = time.monotonic() + _START_SECONDS
        while subprocess.call([_POSTGRES / "pg_isready", "-q", "-h", self.folder], cwd="/"):
            assert self._server.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(_LOOK_EVERY)

    def renew(self) -> None:
        """Make the database anew, for an Airflow that is new."""
        at = ("-h", str(self.folder), "-U", "postgres")
        self._call("dropdb", *at, "--if-exists", "--force", "airflow")
        self._call("createdb", *at, "airflow")

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(_POSTGRES / program), *arguments],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **self._as,
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def close(self) -> None:
        """End the server, and remove its cluster."""
        if self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(5)
            except subprocess.TimeoutExpired:  # somebody is connected: end that
                self._server.send_signal(2)
                self._server.wait(30)
            self._server = None
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """For SQLAlchemy; the driver is the caller's to say."""
        return f"postgresql+psycopg2://postgres@/airflow?host={self.folder}"

    def rows(self, query: str) -> list[list[str]]:
        """Ask the database, with ``|`` between two columns of a row."""
        command = [_POSTGRES / "psql", "-h", self.folder, "-U", "postgres", "-d", "airflow", "-AtqXc", query]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True)
        return [line.split("|") for line in done.stdout.splitlines()]


class ExecutorSandbox(Sandbox):
    """A sandbox that can have PostgreSQL for its database, a triggerer and Celery workers."""

    postgres: Postgres | None = None
    _others: tuple[psutil.Popen, ...] = ()

    def run_states(self, dag_id: str) -> dict[str, int]:
        if self.postgres is None:
            return super().run_states(dag_id)
        query = f"SELECT state, count(*) FROM dag_run WHERE dag_id = '{dag_id}' GROUP BY state"
        return {state: int(count) for state, count in self.postgres.rows(query)}

    def start_triggerer(self) -> psutil.Popen:
        """Start the triggerer, and wait until it works; its log is ``logs/triggerer.log``."""
        return self._began("triggerer", "--skip-serve-logs", until="Starting the triggerer")

    def start_worker(self, concurrency: int = 2) -> psutil.Popen:
        """Start a Celery worker with so many prefork processes, and wait until it is ready."""
        return self._began(
            "celery", "worker", "--skip-serve-logs", "--concurrency", str(concurrency), until=" ready."
        )

    def _began(self, name: str, *options: str, until: str = "") -> psutil.Popen:
        log = self.home / "logs" / f"{name}.log"
        size = log.stat().st_size if log.exists() else 0
        process = self._start(name, *options)
        self._others += (process,)
        deadline = time.monotonic() + _START_SECONDS
        while until and until not in log.read_text(errors="replace")[size:]:
            self._still_there(process, name)
            if time.monotonic() > deadline:
                raise SandboxError(f"the {name} isn't ready\n{self.log(name)}")
            time.sleep(_LOOK_EVERY)
        return process

    def ended(self) -> None:
        """Take note that somebody has ended the scheduler, the triggerer and the worker."""
        self._scheduler, self._others = None, ()

    def close(self) -> None:
        # The others first: their tasks report to the API server, or would wait for it.
        begun, self._others = self._others, ()
        processes.end(begun, grace=5)
        super().close()


@dataclass
class Stage(Live):
    """A live Airflow under any executor.

    Args:
        sandbox: the Airflow; prepared, nothing started.
    """

    sandbox: ExecutorSandbox

    @property
    def pods(self) -> Path:
        return self.sandbox.home / "pods"

    def said(self) -> str:
        """What pods and tasks have logged."""
        found = [*self.pods.glob("*.log"), *(self.sandbox.home / "logs").rglob("dag_id=*/**/*.log")]
        return "".join(one.read_text(errors="replace") for one in sorted(found))

    def clients_of_a_process(self) -> Counter[int]:
        lines = (self.sandbox.home / "clients").read_text().splitlines()
        return Counter(int(line.split()[0]) for line in lines)

    def arrived(self, expected: int, *, timeout: float = 90) -> list[Tally]:
        """Wait for so many events at each destination, and count them."""
        self.wait_for_events(expected, timeout=timeout)
        return self.tallies(expected)

    def start(self) -> None:
        """Start what runs a task under any executor: the scheduler, and Airflow 3's API server."""
        if self.sandbox.version.startswith("3"):
            self.sandbox.start_api_server()
        self.sandbox.start_scheduler()

    def finish_runs(self, count: int, prefix: str, *, total: int | None = None) -> None:
        self.sandbox.create_runs("work", count, prefix=prefix)
        self.sandbox.wait_runs("work", total or count, timeout=180)


MakeStage = Callable[..., Stage]


def transport(http: RecordingDestination, datadog: RecordingDestination, **keys: Any) -> str:
    """The configuration of Keepline's transport with both destinations."""
    legs = {
        "http": {"type": "http", "url": http.url},
        "datadog": {"type": "datadog", "apiKey": "not-a-real-key", "site": datadog.url},
    }
    return json.dumps({"type": "keepline.Transport", "transports": legs, **keys})


def stage(
    home: Path,
    version: str,
    destinations: tuple[RecordingDestination, RecordingDestination],
    *,
    postgres: Postgres | None = None,
    executor: str | None = None,
    env: Mapping[str, str] | None = None,
    dags: Mapping[str, str] = WORK,
) -> Stage:
    """Make an Airflow.

    Args:
        home: its folder, new.
        version: of Airflow; with PostgreSQL, of the environment that has its driver and Celery's.
        destinations: of its events.
        postgres: its database; SQLite without.
        executor: in place of the sandbox's own.
        env: more environment.
        dags: sources by file name.
    """
    name = f"airflow-{version}-celery" if postgres else f"airflow-{version}"
    python = ENVIRONMENTS / name / "bin" / "python"
    assert python.exists(), f"{python} is missing; make it with: python3 tools/setup_env.py {name}"
    for folder in ("plugins", "pods", "modules"):
        (home / folder).mkdir(parents=True)
    (home / "plugins" / "count_clients.py").write_text(_COUNT_CLIENTS)
    (home / "modules" / "pods.py").write_text(_PODS)
    (home / "clients").touch()
    variables = {
        "AIRFLOW__OPENLINEAGE__TRANSPORT": transport(*destinations),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
        "CLIENTS_FILE": str(home / "clients"),
        "PODS": str(home / "pods"),
        "POD_TRANSPORT": transport(*destinations, relay="inline"),
        "PYTHONPATH": str(home / "modules"),
    }
    if executor is not None:
        variables["AIRFLOW__CORE__EXECUTOR"] = executor
    if postgres is not None:
        postgres.renew()
        variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = postgres.url
        variables.update(_celery(home, postgres))
    sandbox = ExecutorSandbox(home, python, env={**variables, **(env or {})}, dags=dags)
    sandbox.postgres = postgres
    sandbox.prepare()
    return Stage(sandbox, *destinations)


def _celery(home: Path, postgres: Postgres) -> dict[str, str]:
    # A broker of files: everything is Celery's own but the server that would carry its messages.
    folders = {}
    for name in ("data_folder_in", "data_folder_out", "control_folder"):
        # What one writes "out" the other has to find "in".
        folder = home / "broker" / ("control" if name.startswith("control") else "queue")
        folder.mkdir(parents=True, exist_ok=True)
        folders[f"AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__{name}".upper()] = str(folder)
    return {
        **folders,
        "AIRFLOW__CELERY__BROKER_URL": "filesystem://",
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{postgres.url}",
        "AIRFLOW__CELERY__WORKER_ENABLE_REMOTE_CONTROL": "False",
        "AIRFLOW__CELERY__SYNC_PARALLELISM": "1",
    }
