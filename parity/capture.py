"""One run of the check: an Airflow driven through the scenario, and what arrived at its destinations."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepline.demo.destination import RecordingDestination
from keepline.outbox.files import OutboxFiles
from keepline.outbox.status import read_status
from parity.live import LiveAirflow
from parity.scenario import Scenario

LEGS = ("http", "datadog")
SIDES = ("upstream", "keepline")

# What makes the same client's request: where it goes, and as what.
_HEADERS = ("content-type", "authorization", "dd-api-key")

_SELECTIVE = {
    "openlineage": {
        "selective_enable": True,
        "debug_mode": True,
        "include_full_task_info": True,
        "disable_source_code": True,
    }
}


@dataclass(frozen=True)
class Capture:
    """What one run has shown.

    Args:
        events: by leg, each with a key ``request`` of its own that has the request's path and headers.
        began: in seconds since the epoch, before anything was triggered.
        ended: after everything had ended.
        remarks: what wasn't as it should be, and isn't an event.
    """

    events: dict[str, list[dict[str, Any]]]
    began: float
    ended: float
    remarks: list[str]

    @classmethod
    def load(cls, file: Path) -> Capture:
        """Read what :meth:`save` wrote."""
        return cls(**json.loads(file.read_text()))

    def save(self, file: Path) -> None:
        """Write it down."""
        file.write_text(json.dumps(self.__dict__, ensure_ascii=False, indent=1))


def capture(side: str, python: Path, work: Path, say: Callable[[str], None]) -> Capture:
    """Run the whole scenario once.

    Args:
        side: ``upstream``, or ``keepline``.
        python: the interpreter of the environment.
        work: a folder for this version of Airflow; its ``home`` is made, and is called as the side is then.
        say: told what is going on.
    """
    home, kept = work / "home", work / side
    for old in (home, kept):
        shutil.rmtree(old, ignore_errors=True)
    remarks: list[str] = []
    with ExitStack() as stack:
        http, datadog = (stack.enter_context(RecordingDestination()) for _ in LEGS)
        airflow = stack.enter_context(LiveAirflow(home, python, _settings(side, http, datadog)))
        say("preparing the database and the DAGs")
        airflow.prepare()
        began = time.time()
        for settings, name in (({}, "main"), (_SELECTIVE, "selective")):
            airflow.configure(settings)
            say(f"starting Airflow {airflow.version}")
            airflow.start_all()
            scenario = Scenario(airflow, http, say)
            getattr(scenario, name)()
            for late in airflow.stop_all():
                remarks.append(f"the {late} hadn't ended two minutes after SIGTERM")
            scenario.quiet(5)
        if side == "keepline":
            remarks += _left(home)
        ended = time.time()
        events = {leg: _events(one) for leg, one in zip(LEGS, (http, datadog), strict=True)}
    home.rename(kept)
    return Capture(events, began, ended, remarks)


def _settings(
    side: str, http: RecordingDestination, datadog: RecordingDestination
) -> dict[str, dict[str, object]]:
    legs = {
        "http": {
            "type": "http",
            "url": http.url,
            "timeout": 60,
            "auth": {"type": "api_key", "apiKey": "parity"},
        },
        "datadog": {"type": "datadog", "apiKey": "parity", "site": datadog.url, "timeout": 60},
    }
    transport = {"type": "composite" if side == "upstream" else "keepline.Transport", "transports": legs}
    return {
        "openlineage": {"transport": json.dumps(transport)},
        "keepline": {"disabled": side == "upstream"},
    }


def _events(destination: RecordingDestination) -> list[dict[str, Any]]:
    """The events of the requests that were answered 2xx, in the order of their arrival."""
    found = []
    for one in destination.received:
        if one.status is not None and 200 <= one.status < 300:
            event = json.loads(one.body)
            headers = {name: one.headers[name] for name in _HEADERS if name in one.headers}
            found.append({**event, "request": {"line": f"{one.method} {one.path}", **headers}})
    return found


def _left(home: Path) -> list[str]:
    """What the outbox still has, or has given up."""
    status = read_status(OutboxFiles(home / "keepline"))
    left = [f"{status.waiting} events wait in the journal"] if status.waiting else []
    for one in status.destinations:
        if one.pending or one.dead:
            left.append(f"{one.name}: {one.pending} deliveries are pending, {one.dead} are dead letters")
    return left
