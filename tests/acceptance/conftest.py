"""Live schedulers at both supported ends: the newest Airflow and provider, and those of the first report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
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

# Loaded by Airflow in each of its processes, by some versions twice: notes, by process, each client that is
# made, each event that is emitted, and the class of the provider's listener in the scheduler and in tasks.
WATCH = """\
import os
import sys
from pathlib import Path

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin
from airflow.providers.openlineage.plugins import listener
from openlineage.client import OpenLineageClient


def note(what, *words):
    with Path(os.environ["AIRFLOW_HOME"], what).open("a") as out:
        out.write(" ".join(map(str, (os.getpid(), *words))) + "\\n")


made, emitted = OpenLineageClient.__init__, OpenLineageClient.emit


def noted(self, *args, **kwargs):
    made(self, *args, **kwargs)
    note("clients", f"{type(self.transport).__module__}.{type(self.transport).__name__}")


def emit(self, event):
    note("emissions", event.eventType.value)
    return emitted(self, event)


class Watch:
    @hookimpl
    def on_starting(self, component):
        note("listeners", sys.argv[1], type(listener.get_openlineage_listener()).__name__)

    @hookimpl
    def on_task_instance_running(self, task_instance):
        note("listeners", "task", type(listener.get_openlineage_listener()).__name__)


class WatchPlugin(AirflowPlugin):
    name = "watch"
    listeners = [Watch()]


if not hasattr(OpenLineageClient, "noted"):
    OpenLineageClient.noted = True
    OpenLineageClient.__init__ = noted
    OpenLineageClient.emit = emit
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
        """Give the process and the transport of each client that was made."""
        return [(int(pid), transport) for pid, transport in self._noted("clients")]

    def emitters(self) -> set[int]:
        """Give the processes that emitted an event."""
        return {int(pid) for pid, _ in self._noted("emissions")}

    def listeners(self) -> set[tuple[str, str]]:
        """Give, for the scheduler and for tasks, the classes of the listeners that the provider had there."""
        return {(where, name) for _, where, name in self._noted("listeners")}

    def _noted(self, what: str) -> list[list[str]]:
        return [line.split() for line in (self.sandbox.home / what).read_text().splitlines()]

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--airflow",
        action="append",
        metavar="VERSION",
        help=f"run the live tests on .venv/airflow-VERSION; {' and '.join(VERSIONS)} without this option",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "version" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("airflow", default=None)
        metafunc.parametrize("version", chosen or VERSIONS, scope="module")


@contextmanager
def live_airflow(
    home: Path,
    version: str,
    *,
    transport: str = "keepline.Transport",
    leg: Mapping[str, Any] | None = None,
    dags: Mapping[str, str] | None = None,
) -> Iterator[Live]:
    """Have a live Airflow, prepared, as long as the ``with`` block.

    Args:
        home: its folder.
        version: of ``.venv/airflow-VERSION``.
        transport: the type of OpenLineage transport.
        leg: more settings of both legs.
        dags: beside the demo's own, sources by file name.
    """
    python = ENVIRONMENTS / f"airflow-{version}" / "bin" / "python"
    assert python.exists(), f"{python} is missing; run `python3 tools/setup_env.py airflow-{version}`"
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "watch.py").write_text(WATCH)
    with RecordingDestination() as http, RecordingDestination() as datadog:
        http_leg = {"type": "http", "url": http.url, **(leg or {})}
        datadog_leg = {"type": "datadog", "apiKey": "not-a-real-key", "site": datadog.url, **(leg or {})}
        config: dict[str, Any] = {"type": transport, "transports": {"http": http_leg, "datadog": datadog_leg}}
        if transport == "datadog":
            config = datadog_leg
        with Sandbox(
            home,
            python,
            env={"AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(config)},
            dags={**RUNS_ONLY, **ONE_TASK, **(dags or {})},
        ) as sandbox:
            sandbox.prepare()
            # What its commands have written, with OpenLineage disabled, doesn't count.
            for what in ("clients", "emissions", "listeners"):
                (home / what).write_text("")
            yield Live(sandbox, http, datadog)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Callable[..., Live]]:
    """Makes a live Airflow: ``live(version, transport="keepline.Transport", leg={"timeout": 20})``."""
    with ExitStack() as stack:

        def make(version: str, **options: Any) -> Live:
            return stack.enter_context(live_airflow(tmp_path / f"airflow-{version}", version, **options))

        yield make
