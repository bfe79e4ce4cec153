"""What OpenLineage adds to a task: the time of its hooks, whatever the destination does.

    python bench/tasks.py        # needs `make setup`; about 12 minutes, most of it in slow destinations

A task that does nothing runs as an executor runs it, on Airflow 2.11.2 (provider 2.16.0) and 3.3.2 (provider
2.20.3): with OpenLineage disabled, with the provider's listener and its http transport in a composite, and
with Keepline. The destination answers at once, after some seconds, or isn't there. They take turns. The time
is that of the two hooks of a task, its start and its success, in the task's own process, where the task waits
for them: the provider forks that process for each, Keepline has a thread emit. What is left with Keepline is
extracting and building the events, which is the provider's work and the same for both, and making a client;
extracting, and emitting one event, are told apart. Each sample is a process of its own, with a client to make
and modules to import, as tasks are. One before the first isn't counted: it starts the relay.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from figures import Table, run, told

from keepline.demo.airflow_home import AirflowHome
from keepline.demo.destination import Answer, Received, RecordingDestination
from keepline.outbox.files import OutboxFiles
from keepline.relay.ending import stop

ROOT = Path(__file__).resolve().parents[1]
PROVIDERS = {"2.11.2": "2.16.0", "3.3.2": "2.20.3"}
NUMBERS = {
    "rounds": (5, 1, "samples of each"),
    "slow": (8.0, 1.0, "seconds until the slow destination answers"),
}


def transport(kind: str, url: str, outbox: Path) -> str:
    own = {"outbox": str(outbox)} if kind == "keepline.Transport" else {}
    return json.dumps(
        {"type": kind, **own, "transports": {"one": {"type": "http", "url": url, "timeout": 60}}}
    )


def environments(urls: dict[str, str], folder: Path) -> dict[str, dict[str, str]]:
    """The environment of each variant, by its name."""
    made = {"OpenLineage disabled": {"AIRFLOW__OPENLINEAGE__DISABLED": "True"}}
    for name, url in urls.items():
        theirs = transport("composite", url, folder)
        made[f"provider, {name}"] = {
            "AIRFLOW__OPENLINEAGE__TRANSPORT": theirs,
            "AIRFLOW__KEEPLINE__DISABLED": "True",
        }
        ours = transport("keepline.Transport", url, folder / f"outbox-{name}")
        made[f"keepline, {name}"] = {"AIRFLOW__OPENLINEAGE__TRANSPORT": ours}
    return made


def sampled(
    version: str, folder: Path, urls: dict[str, str], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """What each variant took, in seconds: its hooks, and emitting one event."""
    python = ROOT / ".venv" / f"airflow-{version}" / "bin" / "python"
    home = AirflowHome(
        folder / "home", python, dags={"tasks.py": (ROOT / "bench" / "task_dag.py").read_text()}
    )
    home.run("-m", "airflow", "db", "migrate")
    variants = environments(urls, folder)
    samples = []
    for turn in range(rounds + 1):
        for name, env in variants.items():
            if turn == 0 and not name.startswith("keepline"):
                continue
            own = folder / f"{len(samples)}"
            own.mkdir()
            shutil.copy(home.home / "airflow.db", own / "airflow.db")
            own_env = {
                **env,
                "TASK_NOTES": str(own / "notes"),
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{own / 'airflow.db'}",
            }
            samples.append({"name": name, "turn": turn, "env": own_env, "log": str(own / "log")})
    plan = folder / "samples.json"
    plan.write_text(json.dumps(samples))
    scripts = str(ROOT / "tests" / "integration" / "airflow_scripts")
    with (folder / "log").open("w") as log:
        subprocess.run(
            [python, ROOT / "bench" / "task_process.py", home.home / "dags" / "tasks.py", plan],
            env={**home.env, "PYTHONPATH": scripts},
            cwd=folder,
            stdout=log,
            stderr=None,
            check=True,
        )
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in variants}
    for sample in samples:
        path = Path(sample["env"]["TASK_NOTES"])
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        hooks = sum(float(seconds) for what, seconds in lines if what.startswith("on_"))
        if sample["turn"]:
            found[sample["name"]]["hooks"].append(hooks)
            extracting = [float(seconds) for what, seconds in lines if what == "extract_metadata"]
            found[sample["name"]]["extracting"].append(sum(extracting))
            found[sample["name"]]["emit"] += [float(seconds) for what, seconds in lines if what == "emit"]
    return found


def measured(options: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {"rounds": options.rounds, "slow": options.slow, "airflows": {}}
    for version in PROVIDERS:
        with ExitStack() as stack:
            fast, slow = (stack.enter_context(RecordingDestination()) for _ in range(2))

            def answer(_: Received) -> Answer:
                time.sleep(options.slow)
                return Answer(201)

            slow.answer_with(answer)
            with socket.socket() as dead:
                dead.bind(("127.0.0.1", 0))  # and never listens
                urls = {
                    "fast": fast.url,
                    "slow": slow.url,
                    "dead": f"http://127.0.0.1:{dead.getsockname()[1]}",
                }
                folder = Path(options.folder) / version
                folder.mkdir()
                for name in urls:
                    stack.callback(stop, OutboxFiles(folder / f"outbox-{name}"), 30)
                with told(f"tasks of Airflow {version}"):
                    found = sampled(version, folder, urls, int(options.rounds))
        result["airflows"][version] = {
            name: {what: summed(values) for what, values in kinds.items() if values}
            for name, kinds in found.items()
        }
    return result


def summed(seconds: list[float]) -> dict[str, float]:
    ms = [1000 * one for one in seconds]
    return {"median": round(statistics.median(ms), 2), "worst": round(max(ms), 2)}


def tables(result: dict[str, Any]) -> list[Table]:
    made = []
    for version, found in result["airflows"].items():
        rows = []
        for name, kinds in found.items():
            hooks, emit = kinds["hooks"], kinds.get("emit", {})
            theirs = found.get(name.replace("keepline", "provider"), kinds)["hooks"]["median"]
            ratio = f"{theirs / hooks['median']:.1f}x" if name.startswith("keepline") else ""
            extracting = kinds.get("extracting", {}).get("median", "")
            told_apart = [extracting, emit.get("median", ""), emit.get("worst", "")]
            rows.append([name, hooks["median"], hooks["worst"], ratio, *told_apart])
        caption = (
            f"Airflow {version}, provider {PROVIDERS[version]}: {int(result['rounds'])} tasks of each, ms. "
            f"The slow destination answers after {result['slow']:g} s."
        )
        heads = ["", "both hooks", "worst", "provider/keepline", "extracting", "one emit", "worst emit"]
        made.append(Table(caption, heads, rows))
    return made


if __name__ == "__main__":
    run(__doc__, NUMBERS, measured, tables)
