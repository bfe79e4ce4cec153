"""A live Airflow with all that its DAGs need: scheduler, triggerer, REST API, and the same settings twice."""

from __future__ import annotations

import json
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from keepline.demo import processes
from keepline.demo.sandbox import Sandbox, SandboxError

HERE = Path(__file__).resolve().parent
_END_SECONDS = 120.0
_LOOK_EVERY = 0.25

_SETTINGS: dict[str, dict[str, object]] = {
    "core": {
        "parallelism": 6,
        "max_active_tasks_per_dag": 64,
        # A file counts as one of DAGs though the word "airflow" isn't in it.
        "dag_discovery_safe_mode": False,
    },
    # The links to logs are in events: they have to be the same in both runs, and nobody follows them.
    "webserver": {"base_url": "http://airflow.example"},
    "api": {"base_url": "http://airflow.example"},
    "openlineage": {
        "namespace": "parity",
        "extractors": "parity_support.lineage.SilentExtractor",
        "custom_run_facets": "parity_support.lineage.mood_facet",
        "disabled_for_operators": "parity_support.lineage.UnwantedOperator",
        # By default what takes more than 10 s is given up, which a busy machine could make so.
        "execution_timeout": 120,
    },
    # Many processes share the file; by default a request would fail after 5 s of waiting for its turn.
    "database": {
        "sql_alchemy_connect_args": "parity_support.database.WAIT_FOR_LOCKS",
        "sql_alchemy_connect_args_async": "parity_support.database.WAIT_FOR_LOCKS",
    },
    "workers": {"min_heartbeat_interval": 2},
    "scheduler": {
        "job_heartbeat_sec": 2,
        "zombie_detection_interval": 5,
        "min_file_process_interval": 3600,  # the files don't change
        "allowed_run_id_pattern": "^[^/ ]+$",  # letters of every script, as in ids of DAGs
    },
    "triggerer": {"job_heartbeat_sec": 2},
}
_SETTINGS_2: dict[str, dict[str, object]] = {
    # Tasks side by side, each forked; the sequential executor would start an interpreter for each.
    "core": {"executor": "LocalExecutor"},
    "api": {"auth_backends": "airflow.api.auth.backend.default"},
    "scheduler": {
        # On Airflow 2 it is the one that tells of a task that has lost its process.
        "standalone_dag_processor": False,
        # SQLite locks no rows: with two that schedule, some tasks would be tried twice.
        "schedule_after_task_execution": False,
    },
}


class LiveAirflow(Sandbox):
    """An Airflow in a folder, with the DAGs of this check.

    Args:
        home: its folder; the same path for both runs, for it is in events.
        python: the interpreter of its environment.
        settings: of airflow.cfg, by section, above those of this module.
    """

    def __init__(self, home: Path, python: Path, settings: Mapping[str, Mapping[str, object]]) -> None:
        dags = {file.name: file.read_text() for file in (HERE / "dags").glob("*.py")}
        super().__init__(home, python, dags=dags)
        self.is_2 = self.version.startswith("2.")
        self._heads: dict[str, psutil.Popen] = {}
        self.env |= {
            "PYTHONPATH": str(HERE / "support"),
            # Some lists in events are made of sets: their order is that of hashes.
            "PYTHONHASHSEED": "0",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "AIRFLOW_CONN_PARITY_SQLITE": json.dumps(
                {"conn_type": "sqlite", "host": str(self.home / "data.db")}
            ),
            "_AIRFLOW__SKIP_DATABASE_EXECUTOR_COMPATIBILITY_CHECK": "1",
        }
        self.configure(_SETTINGS)
        if self.is_2:
            self.configure(_SETTINGS_2)
            (self.home / "webserver_config.py").write_text(
                'AUTH_ROLE_PUBLIC = "Admin"\nWTF_CSRF_ENABLED = False\n'
            )
        self.configure(settings)

    def configure(self, settings: Mapping[str, Mapping[str, object]]) -> None:
        """Set options of airflow.cfg, which count for what is started from now on."""
        for section, options in settings.items():
            for name, value in options.items():
                self.env[f"AIRFLOW__{section}__{name}".upper()] = str(value)

    def prepare(self) -> None:
        """Make the database with the DAGs in it.

        Raises:
            SandboxError: a DAG file can't be imported.
        """
        super().prepare()
        if errors := self.query("SELECT filename, stacktrace FROM import_error"):
            raise SandboxError("\n".join(f"{name}:\n{trace}" for name, trace in errors))

    def start_all(self) -> None:
        """Start everything, the REST API first: Airflow 3's tasks need it."""
        if self.is_2:
            port = self.api_url.rpartition(":")[2]
            options = ("--hostname", "127.0.0.1", "--port", port, "--workers", "1")
            self._heads["webserver"] = self._start("webserver", *options)
            self._wait_for_webserver()
        else:
            self._heads["api-server"] = self.start_api_server()
        self._heads["triggerer"] = self._start("triggerer", "--skip-serve-logs")
        self._heads["scheduler"] = self.start_scheduler()

    def stop_all(self) -> list[str]:
        """Stop everything as an administrator would, the REST API last.

        Returns:
            what hadn't ended after two minutes and was killed.
        """
        late = []
        for name in reversed(self._heads):
            head = self._heads[name]
            head.terminate()
            try:
                head.wait(_END_SECONDS)
            except psutil.TimeoutExpired:
                late.append(name)
            processes.end(self.processes(of=head), grace=5)
        self._heads.clear()
        self._scheduler = self._api_server = None
        return late

    def command(self, *words: str) -> psutil.Popen:
        """Start a command of Airflow's that lives on its own, with OpenLineage on."""
        return self._start(*words)

    def query(self, text: str, *values: object) -> list[Any]:
        """What the metadata database answers to a SELECT."""
        address = f"{(self.home / 'airflow.db').as_uri()}?mode=rw"
        with closing(sqlite3.connect(address, uri=True, timeout=30)) as database:
            database.execute("PRAGMA query_only = ON")
            return database.execute(text, values).fetchall()

    def wait_until(self, condition: Callable[[], object], timeout: float, what: str) -> None:
        """Wait until something is so, as long as everything runs.

        Raises:
            SandboxError: something has ended, or it isn't so in time.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            for name, head in self._heads.items():
                self._still_there(head, name)
            if time.monotonic() > deadline:
                raise SandboxError(f"not within {timeout:g} s: {what}\n{self.log('scheduler')}")
            time.sleep(_LOOK_EVERY)

    def _wait_for_webserver(self) -> None:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def answers() -> bool:
            try:
                with direct.open(f"{self.api_url}/api/v1/version", timeout=5):
                    return True
            except OSError:
                return False

        self.wait_until(answers, _END_SECONDS, "an answer of the webserver")
