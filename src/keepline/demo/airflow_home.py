"""The folder of a throwaway Airflow: its DAGs, its database, and the commands that end by themselves."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
from collections.abc import Mapping
from pathlib import Path

from keepline.demo import airflow_settings
from keepline.errors import KeeplineError

_COMMAND_SECONDS = 120.0
_LOCK_SECONDS = 30.0
_VERSION = "import importlib.metadata; print(importlib.metadata.version('apache-airflow'))"


class SandboxError(KeeplineError):
    """A sandbox's Airflow didn't do what was asked; carries what it printed last."""


class AirflowHome:
    """A folder with an Airflow of its own, on SQLite.

    Args:
        home: the folder, made if missing; nothing is written outside it, nothing in it is removed.
        python: the interpreter of an environment with Airflow 2.11 or 3.
        env: more environment of its processes, above the sandbox's own, for example
            ``{"AIRFLOW__OPENLINEAGE__TRANSPORT": '{"type": "console"}'}``. Else they inherit next to nothing.
        dags: sources of DAGs by file name; see :mod:`keepline.demo.dags`.

    Attributes:
        version: of the Airflow, for example ``"3.3.2"``.
        env: the environment of its processes; what is changed counts from the next start.
        api_url: where an API server is to listen.
    """

    def __init__(
        self,
        home: Path,
        python: Path,
        *,
        env: Mapping[str, str] | None = None,
        dags: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home.absolute()
        self.python = python.absolute()  # not resolved: a virtual environment's interpreter is a link
        (self.home / "dags").mkdir(parents=True, exist_ok=True)
        (self.home / "logs").mkdir(exist_ok=True)
        for name, source in (dags or {}).items():
            (self.home / "dags" / name).write_text(source)
        port = _free_port()
        self.api_url = f"http://127.0.0.1:{port}"
        self.env: dict[str, str] = {}
        self.version = self.run("-c", _VERSION).strip()
        self.env = {**airflow_settings.settings(self.home, self.python, self.version, port), **(env or {})}

    def run(self, *arguments: str, timeout: float = _COMMAND_SECONDS) -> str:
        """Run a command of its Python, with OpenLineage switched off, and return what it printed.

        Args:
            arguments: of the interpreter, for example ``("-m", "airflow", "providers", "list")``.
            timeout: longest it may take, seconds.

        Raises:
            SandboxError: it failed, or took too long.
        """
        shown = " ".join([str(self.python), *arguments])
        try:
            done = subprocess.run(
                [str(self.python), *arguments],
                env={**self.env, "AIRFLOW__OPENLINEAGE__DISABLED": "True"},
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise SandboxError(f"`{shown}` took more than {timeout:g} s") from None
        if done.returncode:
            said = f"{done.stdout}\n{done.stderr}".strip()[-3000:]
            raise SandboxError(f"`{shown}` ended with {done.returncode}:\n{said}")
        return done.stdout

    def prepare(self) -> None:
        """Make the metadata database, and serialise the DAGs into it; takes 3 to 8 s."""
        self.run("-m", "airflow", "db", "migrate")
        self.run("-m", "airflow", "dags", "reserialize")

    def create_runs(self, dag_id: str, count: int, *, prefix: str) -> list[str]:
        """Create queued runs of a DAG, which a scheduler will start; 1 to 3 s for hundreds of them.

        Args:
            dag_id: the DAG.
            count: how many.
            prefix: of their ids, ``PREFIX-0000`` and on; must be new to this home.
        """
        script = str(Path(__file__).with_name("airflow_runs.py"))
        printed = self.run(script, dag_id, str(count), prefix)
        ids: list[str] = json.loads(printed.splitlines()[-1])  # Airflow 3 logs to the same stream
        return ids

    def run_states(self, dag_id: str) -> dict[str, int]:
        """Count a DAG's runs by state, for example ``{"success": 12, "queued": 3}``."""
        # Not mode=ro: after the SIGKILL of a writer SQLite has to roll its transaction back first.
        address = f"{(self.home / 'airflow.db').as_uri()}?mode=rw"
        database = sqlite3.connect(address, uri=True, timeout=_LOCK_SECONDS)
        try:
            database.execute("PRAGMA query_only = ON")
            query = "SELECT state, count(*) FROM dag_run WHERE dag_id = ? GROUP BY state"
            return dict(database.execute(query, (dag_id,)).fetchall())
        finally:
            database.close()

    def log(self, name: str, *, lines: int = 30) -> str:
        """Give the end of the log of a ``scheduler`` or ``api-server``."""
        text = (self.home / "logs" / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
