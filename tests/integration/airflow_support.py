"""Scripts run by the interpreters of the Airflow environments, in homes of their own, on one database."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keepline.demo.airflow_home import AirflowHome
from keepline.demo.processes import end, with_variable

VERSIONS = ("2.11.2", "3.3.2")
KEEPLINE = "keepline.Transport"

_SCRIPTS = Path(__file__).with_name("airflow_scripts")
_TIMEOUT = 90.0  # seconds, on a busy machine

_DAGS = {
    "lineage.py": """\
from datetime import datetime

try:
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import DAG, TaskGroup
except ImportError:
    from airflow import DAG
    from airflow.operators.empty import EmptyOperator
    from airflow.utils.task_group import TaskGroup

with DAG(
    "lineage",
    description="Für Elise",
    schedule=None,
    start_date=datetime(2020, 1, 1),
    catchup=False,
    tags=["one", "two"],
    default_args={"owner": "amy, bob"},
):
    with TaskGroup("group"):
        EmptyOperator(task_id="first") >> EmptyOperator(task_id="second")
"""
}


Variant = tuple[Sequence[object], Mapping[str, str]]


@dataclass(frozen=True)
class Outcome:
    """What a script came to.

    Args:
        result: what it gave.
        log: what it printed and logged.
    """

    result: Any
    log: str

    def lines(self, text: str) -> list[str]:
        """Give the lines of the log that contain a text, other than in the path of this checkout."""
        return [
            line for line in self.log.splitlines() if text in line.replace(str(Path(__file__).parents[2]), "")
        ]


@dataclass
class Airflow:
    """One version of Airflow, in a home that is a test's own.

    Args:
        version: for example ``3.3.2``.
        python: the interpreter.
        home: the AIRFLOW_HOME.
        database: of all tests; has the runs ``run-0000`` to ``run-0002`` of the DAG ``lineage``.
        env: of every process.
    """

    version: str
    python: Path
    home: Path
    database: Path
    env: dict[str, str]

    @property
    def is_2(self) -> bool:
        return self.version.startswith("2.")

    def transport(self, config: Mapping[str, Any]) -> None:
        """Set ``[openlineage] transport`` for the processes from now on."""
        self.env["AIRFLOW__OPENLINEAGE__TRANSPORT"] = json.dumps(config)

    def script(self, name: str, *args: object, env: Mapping[str, str] | None = None) -> Outcome:
        """Run a script of ``airflow_scripts/`` to its end.

        Args:
            name: of the script.
            args: handed over as JSON.
            env: more environment.
        """
        result = self.home / "result.json"
        result.unlink(missing_ok=True)
        command = [str(self.python), str(_SCRIPTS / f"{name}.py"), *map(json.dumps, args)]
        done = self._run(command, {**(env or {}), "SCRIPT_RESULT": str(result)})
        log = done.stdout + done.stderr
        assert done.returncode == 0, f"{name} ended with {done.returncode}:\n{log[-6000:]}"
        return Outcome(json.loads(result.read_text()), log)

    def variants(self, name: str, variants: Mapping[str, Variant]) -> dict[str, Outcome]:
        """Run a script once for each of some variants, in children of one process.

        Args:
            name: of a script that leaves it to ``probe.run``.
            variants: arguments and environment, by a name for the test.
        """
        handed = []
        for number, (args, env) in enumerate(variants.values()):
            result, log = (str(self.home / f"{number}.{what}") for what in ("result", "log"))
            variables = {**env, "SCRIPT_RESULT": result}
            handed.append({"args": list(map(json.dumps, args)), "env": variables, "log": log})
        command = [str(self.python), str(_SCRIPTS / f"{name}.py")]
        done = self._run(command, {"SCRIPT_VARIANTS": json.dumps(handed)})
        assert done.returncode == 0, f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        outcomes = {}
        for what, one in zip(variants, handed, strict=True):
            log = Path(one["log"]).read_text()
            result = Path(one["env"]["SCRIPT_RESULT"])
            assert result.exists(), f"{name} has no result for {what!r}:\n{log[-6000:]}"
            outcomes[what] = Outcome(json.loads(result.read_text()), log)
        return outcomes

    def command(self, *args: str, env: Mapping[str, str] | None = None) -> str:
        """Run a command of the environment's ``bin`` folder, and give its standard output.

        Args:
            args: the command and its arguments.
            env: more environment.
        """
        done = self._run([str(self.python.parent / args[0]), *args[1:]], env or {})
        assert done.returncode == 0, f"{args} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def own_database(self) -> None:
        """Have the processes from now on use a copy of the database, for a scheduler that works on it."""
        copy = self.home / "airflow.db"
        shutil.copy(self.database, copy)
        self.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{copy}"

    @contextlib.contextmanager
    def background(self, *args: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command of the environment's ``bin`` folder; it logs to ``background.log``, and is killed.

        Args:
            args: the command and its arguments.
        """
        with (self.home / "background.log").open("wb") as log:
            process = subprocess.Popen(
                [str(self.python.parent / args[0]), *args[1:]],
                env=self.env,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            _kill_group(process.pid)
            process.wait()

    def _run(self, command: list[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        # Files, not pipes: a relay that holds a pipe's end open would hold up this.
        out, err = self.home / "out.log", self.home / "err.log"
        with out.open("w") as stdout, err.open("w") as stderr:
            process = subprocess.Popen(
                command,
                env={**self.env, **env},
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{command} hangs:\n{out.read_text()}{err.read_text()}")
        finally:
            _kill_group(process.pid)
            process.wait()
        return subprocess.CompletedProcess(command, process.returncode, out.read_text(), err.read_text())


def end_scheduler(process: subprocess.Popen[bytes]) -> int:
    """Stop a scheduler with SIGTERM, and give its exit status.

    Airflow's handler raises SystemExit wherever the main thread is; in the callback of a weak reference that
    is lost, and the scheduler goes on until it is asked again.

    Args:
        process: the scheduler's.
    """
    for _ in range(6):
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(20)
    pytest.fail("the scheduler doesn't stop")


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def interpreter(root: Path, version: str) -> Path:
    """The interpreter of an environment; it is an error when there is none.

    Args:
        root: of the project.
        version: of Airflow.
    """
    python = root / ".venv" / f"airflow-{version}" / "bin" / "python"
    assert python.exists(), f"{python} is missing; make it with: python3 tools/setup_env.py airflow-{version}"
    return python


@functools.cache
def _prepared(version: str, root: Path, base: Path) -> AirflowHome:
    home = AirflowHome(base / f"airflow-{version}", interpreter(root, version), dags=_DAGS)
    home.prepare()
    home.create_runs("lineage", 3, prefix="run")
    return home


@pytest.fixture(params=VERSIONS)
def airflow(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Airflow]:
    """An Airflow with a database that has runs of the DAG ``lineage``; no process of it stays behind."""
    version: str = request.param
    prepared = _prepared(version, request.config.rootpath, tmp_path_factory.getbasetemp())
    home = tmp_path / "home"
    home.mkdir()
    env = {**prepared.env, "AIRFLOW_HOME": str(home), "HOME": str(home)}
    yield Airflow(version, prepared.python, home, prepared.home / "airflow.db", env)
    end(with_variable("AIRFLOW_HOME", str(home)), grace=2)
