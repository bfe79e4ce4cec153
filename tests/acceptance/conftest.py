"""Live schedulers at both supported ends: the newest Airflow and provider, and those of the first report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keepline.demo.dags import ONE_TASK, RUNS_ONLY
from keepline.demo.destination import RecordingDestination
from keepline.demo.sandbox import Sandbox
from keepline.demo.tally import Tally, tally
from keepline.outbox.files import OutboxFiles
from keepline.outbox.status import OutboxStatus, read_status

VERSIONS = ("3.3.2", "2.11.2")
ENVIRONMENTS = Path(__file__).parents[2] / ".venv"

# Loaded by Airflow in each of its processes: writes down each client that is made, by process.
COUNT_CLIENTS = """\
import os
from pathlib import Path
from openlineage.client import OpenLineageClient

made = OpenLineageClient.__init__

def counted(self, *args, **kwargs):
    made(self, *args, **kwargs)
    with Path(os.environ["CLIENTS_FILE"]).open("a") as out:
        out.write(f"{os.getpid()} {type(self.transport).__module__}.{type(self.transport).__name__}\\n")

OpenLineageClient.__init__ = counted
"""


@dataclass
class Live:
    """An Airflow with two recording destinations.

    Args:
        sandbox: the Airflow; prepared, nothing started.
        http: receives from the leg ``http``.
        datadog: receives from the leg ``datadog``.
    """

    sandbox: Sandbox
    http: RecordingDestination
    datadog: RecordingDestination

    @property
    def destinations(self) -> tuple[RecordingDestination, RecordingDestination]:
        return self.http, self.datadog

    @property
    def outbox(self) -> OutboxFiles:
        return OutboxFiles(self.sandbox.home / "keepline")

    def status(self) -> OutboxStatus:
        return read_status(self.outbox)

    def clients(self) -> list[tuple[int, str]]:
        lines = (self.sandbox.home / "clients").read_text().splitlines()
        return [(int(line.split()[0]), line.split()[1]) for line in lines]

    def tallies(self, expected: int) -> list[Tally]:
        return [tally(one.events, expected) for one in self.destinations]

    def wait_for_events(self, expected: int, *, timeout: float) -> None:
        for one in self.destinations:
            one.wait_for(lambda d: tally(d.events, expected).delivered >= expected, timeout)

    def down(self) -> None:
        for one in self.destinations:
            one.down()

    def up(self) -> None:
        for one in self.destinations:
            one.up()


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Callable[..., Live]]:
    """Makes a live Airflow: ``live(version, transport="keepline.Transport", leg={"timeout": 20})``."""
    with ExitStack() as stack:

        def make(
            version: str, *, transport: str = "keepline.Transport", leg: dict[str, Any] | None = None
        ) -> Live:
            python = ENVIRONMENTS / f"airflow-{version}" / "bin" / "python"
            assert python.exists(), f"{python} is missing; run `make setup`"
            http, datadog = (stack.enter_context(RecordingDestination()) for _ in range(2))
            http_leg = {"type": "http", "url": http.url, **(leg or {})}
            datadog_leg = {"type": "datadog", "apiKey": "not-a-real-key", "site": datadog.url, **(leg or {})}
            config: dict[str, Any] = {
                "type": transport,
                "transports": {"http": http_leg, "datadog": datadog_leg},
            }
            if transport == "datadog":
                config = datadog_leg
            home = tmp_path / f"airflow-{version}"
            (home / "plugins").mkdir(parents=True)
            (home / "plugins" / "count_clients.py").write_text(COUNT_CLIENTS)
            (home / "clients").touch()
            sandbox = stack.enter_context(
                Sandbox(
                    home,
                    python,
                    env={
                        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(config),
                        "CLIENTS_FILE": str(home / "clients"),
                    },
                    dags={**RUNS_ONLY, **ONE_TASK},
                )
            )
            sandbox.prepare()
            return Live(sandbox, http, datadog)

        yield make
