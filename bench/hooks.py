"""What a listener's hooks cost a scheduler's loop: keepline's beside the provider's own, on two Airflows.

Three processes for each Airflow, each with the same metadata database (SQLite) and the same DAG run: one
with the provider's listener and a composite transport of `http` and `datadog`, one with keepline's and the
same two legs, and one in which the provider's code runs up to where it submits, and no further: the floor
under both. They take turns, some calls each. Whoever isn't at turn is stopped by a signal, with all of its
children, so that none pays for what another does in the background; what its own workers do meanwhile it
pays for.

Between two hooks there is a millisecond of a loop's work and a pause of ten. `hook` is the time in the
hook, and `own CPU` what its thread used of a processor for it, which is the same on a busy machine; `loop`
is the hook and the work after it, which takes longer when other threads of the process want the interpreter
at that time; `all CPU` is what all threads of the process use for both.

The destination answers at once, and then in another run after a second. Times are milliseconds.

    python bench/hooks.py [--rounds 400] [--block 10] [--slow 1.0] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from figures import Numbers, Table, centiles, run, told

from keepline.demo.airflow_home import AirflowHome
from keepline.demo.destination import RecordingDestination
from keepline.demo.processes import end, with_variable

NUMBERS: Numbers = {
    "rounds": (400, 4, "calls of each hook"),
    "block": (10, 2, "calls of each hook at a turn"),
    "slow": (1.0, 0.2, "seconds that a slow destination takes to answer"),
}
ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("2.11.2", "3.3.2")
KINDS = ("provider", "keepline", "floor")

DAGS = {
    "hooks.py": """\
from datetime import datetime
try:
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import DAG, TaskGroup
except ImportError:
    from airflow import DAG
    from airflow.operators.empty import EmptyOperator
    from airflow.utils.task_group import TaskGroup

with DAG("hooks", description="ten tasks", schedule=None, start_date=datetime(2020, 1, 1), catchup=False,
         tags=["one", "two"], default_args={"owner": "amy, bob"}):
    before = None
    for number in range(5):
        with TaskGroup(f"group_{number}") as group:
            EmptyOperator(task_id="first") >> EmptyOperator(task_id="second")
        if before:
            before >> group
        before = group
"""
}


class Turns:
    """One of the processes; it runs only while it has its turn.

    Args:
        airflow: a prepared home.
        kind: of KINDS.
        home: a folder of its own.
        url: of the destination.
    """

    def __init__(self, airflow: AirflowHome, kind: str, home: Path, url: str) -> None:
        home.mkdir(parents=True)
        legs = {
            "local": {"type": "http", "url": url},
            "dog": {"type": "datadog", "apiKey": "no", "site": url},
        }
        transport = {"type": "composite" if kind == "provider" else "keepline.Transport", "transports": legs}
        env = {
            **airflow.env,
            **({"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}),
            "AIRFLOW_HOME": str(home),
            "HOME": str(home),
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
            "AIRFLOW__KEEPLINE__DISABLED": str(kind != "keepline"),
            "AIRFLOW__KEEPLINE__STOP_TIMEOUT": "0",
        }
        script = str(ROOT / "bench" / "hooks_process.py")
        words = [str(airflow.python), script, "hooks", "run-0000", *(["floor"] if kind == "floor" else [])]
        self.log = home / "process.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                words,
                env=env,
                cwd=home,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.took: dict[str, list[float]] = {}
        self.loop: list[float] = []
        self.own: list[float] = []
        self.cpu = 0.0
        self.memory: list[float] = []

    def turn(self, times: int, *, counts: bool = True) -> None:
        """Let it call every hook so often, and stop it after that.

        Args:
            times: how often.
            counts: whether that is measured.
        """
        os.killpg(self._process.pid, signal.SIGCONT)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{times}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"a process has ended: {self.log.read_text()[-3000:]}")
        os.killpg(self._process.pid, signal.SIGSTOP)
        found = json.loads(answer)
        self.memory.append(found["memory"])
        if counts:
            for name, times_of_one in found["hooks"].items():
                self.took.setdefault(name, []).extend(times_of_one)
            self.loop += found["loop"]
            self.own += found["own"]
            self.cpu += found["cpu"]

    def rest(self, seconds: float) -> None:
        """Let it and its children go on by themselves."""
        os.killpg(self._process.pid, signal.SIGCONT)
        time.sleep(seconds)
        os.killpg(self._process.pid, signal.SIGSTOP)

    def figures(self) -> dict[str, Any]:
        """What its calls took."""
        hooks = {name: centiles(times) for name, times in self.took.items()}
        everything = [one for times in self.took.values() for one in times]
        return {
            "hooks": hooks,
            "all": centiles(everything),
            "loop": centiles(self.loop),
            "own": centiles(self.own),
            "cpu": round(self.cpu / len(everything) * 1e6, 1),
            "memory": {"first": round(self.memory[0], 1), "last": round(self.memory[-1], 1)},
        }

    def end(self) -> None:
        """Kill it and its children: nothing that waits is of interest."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        for one in (psutil.Process(self._process.pid), *children):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError, AttributeError):
                pipe.close()  # type: ignore[union-attr]


@contextmanager
def processes(airflow: AirflowHome, folder: Path, url: str) -> Iterator[dict[str, Turns]]:
    made: dict[str, Turns] = {}
    try:
        for kind in KINDS:
            made[kind] = Turns(airflow, kind, folder / kind, url)
        yield made
    finally:
        for one in made.values():
            one.end()
        for kind in KINDS:
            end(with_variable("AIRFLOW_HOME", str(folder / kind)), grace=2)  # keepline's relay


def side_by_side(options: argparse.Namespace, airflow: AirflowHome, folder: Path, delay: float) -> Any:
    """The figures of each kind, with a destination that takes so long to answer."""
    with RecordingDestination() as destination:
        destination.answer(201, delay=delay)
        with processes(airflow, folder, destination.url) as kinds:
            for one in kinds.values():
                one.turn(options.block, counts=False)  # what happens once: imports, caches, the first worker
                one.rest(0.5 if options.quick else 3.0)
            for number in range(-(-options.rounds // options.block)):
                # Not always in the same order.
                names = KINDS[number % 3 :] + KINDS[: number % 3]
                for name in names:
                    kinds[name].turn(options.block)
            return {name: one.figures() for name, one in kinds.items()}


def measured(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for version in VERSIONS:
        python = ROOT / ".venv" / f"airflow-{version}" / "bin" / "python"
        if not python.exists():
            raise SystemExit(f"{python} is missing; run `make setup`")
        airflow = AirflowHome(options.folder / f"airflow-{version}", python, dags=DAGS)
        with told(f"Airflow {version} is prepared"):
            airflow.prepare()
            airflow.create_runs("hooks", 1, prefix="run")
        for name, delay in (("fast", 0.0), ("slow", options.slow)):
            with told(f"Airflow {version}, a {name} destination"):
                folder = options.folder / f"{version}-{name}"
                found.setdefault(version, {})[name] = side_by_side(options, airflow, folder, delay)
    return {"slow": options.slow, "rounds": options.rounds, "versions": found}


_WALL = ("p50", "p99", "p99.9", "worst")
_TWO = ("p50", "p99")
_HEADS = [
    "listener",
    *(f"hook {one}" for one in _WALL),
    *(f"{what} {one}" for what in ("own CPU", "loop") for one in _TWO),
]


def _ms(figures: dict[str, float], keys: tuple[str, ...]) -> list[str]:
    return [f"{figures[key] / 1000:.3f}" for key in keys]


def tables(result: dict[str, Any]) -> list[Table]:
    made = []
    for version, of_version in result["versions"].items():
        for name, kinds in of_version.items():
            rows = []
            for kind, one in kinds.items():
                figures = [*_ms(one["all"], _WALL), *_ms(one["own"], _TWO), *_ms(one["loop"], _TWO)]
                rows.append([kind, *figures, f"{one['cpu'] / 1000:.3f}"])
            caption = f"Airflow {version}, a {name} destination: milliseconds."
            made.append(Table(caption, [*_HEADS, "all CPU"], rows))
        columns = [(speed, kind) for speed in of_version for kind in KINDS]
        rows = []
        for hook in of_version["slow"]["floor"]["hooks"]:
            of_hook = (of_version[speed][kind]["hooks"][hook] for speed, kind in columns)
            rows.append([hook, *(_ms(one, ("p50",))[0] for one in of_hook)])
        heads = ["hook", *(f"{kind}, {speed}" for speed, kind in columns)]
        made.append(Table(f"Airflow {version}: the median of each hook, milliseconds.", heads, rows))
    return made


if __name__ == "__main__":
    run(__doc__, NUMBERS, measured, tables)
