"""The main job: DAG runs of a live Airflow, through everything that can die dying.

Events are counted where they arrive. Each fault is injected while events are under way.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from keepline.demo import processes
from keepline.demo.dags import RUNS_ONLY
from keepline.demo.destination import RecordingDestination
from keepline.demo.sandbox import Sandbox, SandboxError
from keepline.demo.tally import Tally, tally
from keepline.errors import RelayError
from keepline.outbox.files import OutboxFiles
from keepline.outbox.status import read_status
from keepline.relay.lock import RelayInfo, running

DAG = "runs_only"
EVENTS_A_RUN = 2
STOP_SECONDS = 60.0
_WAVES = 5
_WAVE_SECONDS = 120.0
_DELIVERY_SECONDS = 120.0
_LOOK_EVERY = 0.05


@dataclass(frozen=True)
class Measured:
    """What one process costs when everything is delivered and nothing happens.

    Args:
        what: which process it is.
        cost: what it holds.
        idle_cpu: percent of one core.
    """

    what: str
    cost: processes.Cost
    idle_cpu: float


@dataclass
class Outcome:
    """What the story came to.

    Args:
        tallies: by destination.
        measured: the scheduler, its pool workers and the relay.
        ports: of the destinations, by name.
        stopped_in: seconds from SIGTERM to the scheduler's end, in the outage.
        waited: events in the outbox at that time.
    """

    tallies: dict[str, Tally] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)
    stopped_in: float = 0.0
    waited: int = 0

    @property
    def good(self) -> bool:
        """Whether nothing is lost, nothing out of order."""
        return all(one.good for one in self.tallies.values())


class Story:
    """Runs the main job in a folder.

    Args:
        home: an empty folder for Airflow and the outbox.
        python: the interpreter of an environment with Airflow, provider and Keepline.
        runs: how many DAG runs.
        say: called with a line about each thing that is done.
        advance: called with the runs that have finished and the events that were delivered.
        idle_seconds: over which idle CPU is measured.
    """

    def __init__(
        self,
        home: Path,
        python: Path,
        *,
        runs: int,
        say: Callable[[str], None],
        advance: Callable[[int, int], None],
        idle_seconds: float,
    ) -> None:
        self._runs = runs
        self._say = say
        self._advance = advance
        self._idle_seconds = idle_seconds
        self._created = 0
        self._finished = 0
        self._destinations = {"http": RecordingDestination(), "datadog": RecordingDestination()}
        self._home = home
        self._python = python
        self._files = OutboxFiles(home / "keepline")

    def tell(self) -> Outcome:
        """Run it, and clean up whatever happens.

        Raises:
            SandboxError: Airflow, or delivery, came to a halt.
        """
        for destination in self._destinations.values():
            destination.start()
        sandbox = Sandbox(self._home, self._python, env=self._environment(), dags=RUNS_ONLY)
        try:
            return self._tell(sandbox)
        finally:
            sandbox.close()
            for destination in self._destinations.values():
                destination.stop()

    def _environment(self) -> dict[str, str]:
        http, datadog = (one.url for one in self._destinations.values())
        transport = {
            "type": "keepline.Transport",
            "transports": {
                "http": {"type": "http", "url": http},
                "datadog": {"type": "datadog", "apiKey": "not-a-real-key", "site": datadog},
            },
        }
        return {"AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport)}

    def _tell(self, sandbox: Sandbox) -> Outcome:
        outcome = Outcome(ports={name: _port(one) for name, one in self._destinations.items()})
        self._say(f"setting Airflow {sandbox.version} up in {self._home}")
        sandbox.prepare()
        sandbox.start_scheduler()
        self._say("both destinations answer")
        self._wave(sandbox)
        for destination in self._destinations.values():
            destination.down()
        self._say("both destinations are down: connections are refused")
        self._wave(sandbox, meanwhile=self._kill_pool_worker)
        self._wave(sandbox, meanwhile=self._kill_relay)
        outcome.waited = self._pending()
        outcome.stopped_in = sandbox.terminate_scheduler(STOP_SECONDS)
        self._say(
            f"SIGTERM to the scheduler: it ended after {outcome.stopped_in:.1f} s, "
            f"while {outcome.waited} deliveries wait; it is started again"
        )
        sandbox.start_scheduler()
        self._wave(sandbox)
        for destination in self._destinations.values():
            destination.up()
        self._say("both destinations are back")
        self._wave(sandbox, runs=self._runs - self._created)
        self._wait_for_delivery()
        self._say(f"measuring {self._idle_seconds:g} s of idleness")
        outcome.measured = self._measure(sandbox)
        expected = self._runs * EVENTS_A_RUN
        outcome.tallies = {n: tally(one.events, expected) for n, one in self._destinations.items()}
        return outcome

    def _wave(
        self, sandbox: Sandbox, *, meanwhile: Callable[[Sandbox], None] | None = None, runs: int | None = None
    ) -> None:
        count = self._runs // _WAVES if runs is None else runs
        sandbox.create_runs(DAG, count, prefix=f"demo-{self._created:05d}")
        half = self._created + count // 2
        self._created += count
        if meanwhile is not None:
            sandbox.wait_runs(DAG, half, timeout=_WAVE_SECONDS, on_progress=self._on_finished)
            meanwhile(sandbox)
        sandbox.wait_runs(DAG, self._created, timeout=_WAVE_SECONDS, on_progress=self._on_finished)

    def _on_finished(self, count: int) -> None:
        self._finished = count
        self._advance(count, min(len(one.received) for one in self._destinations.values()))

    def _kill_pool_worker(self, sandbox: Sandbox) -> None:
        workers = sandbox.pool_workers()
        if not workers:
            raise SandboxError(
                "the scheduler has no pool worker; see whether keepline is installed beside Airflow"
            )
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
            self._say(f"kill -9 to the pool worker (pid {worker.pid})")

    def _kill_relay(self, sandbox: Sandbox) -> None:
        relay = self._relay()
        psutil.Process(relay.pid).send_signal(signal.SIGKILL)
        self._say(f"kill -9 to the relay (pid {relay.pid})")

    def _relay(self) -> RelayInfo:
        deadline = time.monotonic() + _DELIVERY_SECONDS
        while time.monotonic() < deadline:
            # A relay that is just starting says who it is a moment later.
            with suppress(RelayError):
                relay = running(self._files)
                if relay is not None:
                    return relay
            time.sleep(_LOOK_EVERY)
        raise SandboxError(
            f"no relay has started for {self._files.folder}; its log is {self._files.relay_log}"
        )

    def _pending(self) -> int:
        status = read_status(self._files)
        return status.waiting * len(self._destinations) + sum(one.pending for one in status.destinations)

    def _wait_for_delivery(self) -> None:
        expected = self._runs * EVENTS_A_RUN
        deadline = time.monotonic() + _DELIVERY_SECONDS
        while time.monotonic() < deadline:
            delivered = [tally(one.events, expected) for one in self._destinations.values()]
            self._advance(self._finished, min(one.delivered for one in delivered))
            if not any(one.lost for one in delivered) and self._pending() == 0:
                return
            time.sleep(_LOOK_EVERY)

    def _measure(self, sandbox: Sandbox) -> list[Measured]:
        names = {one.pid: "pool worker" for one in sandbox.pool_workers()}
        names[self._relay().pid] = "relay"
        idle = processes.cpu_percent(names, self._idle_seconds)
        return [Measured(names[pid], processes.cost(pid), used) for pid, used in idle.items()]


def _port(destination: RecordingDestination) -> int:
    return int(destination.url.rsplit(":", 1)[1])
