"""A relay beside containers: processes that share the outbox's folder, and no process numbers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import psutil
import pytest
import yaml

from keepline.cli import main as cli
from keepline.config import RelayMode, Settings
from keepline.demo.destination import RecordingDestination
from keepline.outbox.files import OutboxFiles
from keepline.outbox.status import read_status
from keepline.relay.lock import running, this_place
from tests.support_relay import EMITTER, all_there, leg, names_in, transport, until

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(120)]

RELAY = "from keepline.cli import main; main()"
# Each is process 1 of its own numbers, as in a container, and ends with what started it.
APART = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


@dataclass
class Contained:
    """A Python process that is process 1 in its container.

    Args:
        outer: who started it, here.
        log: what it has printed.
    """

    outer: psutil.Popen
    log: Path

    @property
    def process(self) -> psutil.Process:
        """The process itself, by its number here."""
        (one,) = until(self.outer.children)
        return one

    def tell(self, line: str) -> None:
        self.outer.stdin.write(f"{line}\n".encode())
        self.outer.stdin.flush()

    def said(self, text: str) -> None:
        until(lambda: text in self.log.read_text() or self.outer.poll() is not None)
        assert text in self.log.read_text()

    def end(self) -> int:
        self.outer.stdin.close()
        return int(self.outer.wait(30))


Contain = Callable[..., Contained]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The shared volume. What delivers from it isn't to be killed by its number, which means another here."""
    return tmp_path / "volume"


@pytest.fixture
def contained(tmp_path: Path) -> Iterator[Contain]:
    with ExitStack() as stack:

        def start(code: str, *words: str, settings: dict[str, Any]) -> Contained:
            log = tmp_path / f"log-{time.monotonic_ns()}"
            # Without the right to do so oneself, one may still be root in a user namespace of one's own.
            rights = [] if os.geteuid() == 0 else ["--map-root-user"]
            with log.open("wb") as out:
                outer = psutil.Popen(
                    [*APART, *rights, sys.executable, "-c", code, *words],
                    env={**os.environ, "OPENLINEAGE__TRANSPORT": json.dumps(settings)},
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=out,
                )
            stack.callback(_close, outer)
            return Contained(outer, log)

        yield start


def _close(outer: psutil.Popen) -> None:
    with suppress(psutil.NoSuchProcess):
        outer.kill()
    outer.stdin.close()
    outer.wait(30)


def numbers(first: int, count: int) -> list[str]:
    return [str(number) for number in range(first, first + count)]


def test_a_sidecar_delivers_what_another_container_appends_and_the_next_one_goes_on(
    contained: Contain, folder: Path, destination: RecordingDestination
) -> None:
    settings = transport(folder, {"a": leg(destination)}, relay="external")
    emitter = contained(EMITTER, settings=settings)
    emitter.tell("0 20")
    emitter.said("done 0")
    relay = contained(RELAY, "relay", settings=settings)
    until(lambda: all_there(destination, numbers(0, 20)))
    told = running(OutboxFiles(folder))
    assert told is not None
    assert (told.pid, told.foreground) == (1, True)
    assert told.place != this_place()

    relay.process.kill()
    assert relay.end()
    destination.down()
    emitter.tell("20 20")
    emitter.said("done 20")
    assert running(OutboxFiles(folder)) is None
    contained(RELAY, "relay", settings=settings)
    destination.up()
    until(lambda: all_there(destination, numbers(0, 40)))
    assert emitter.end() == 0


def test_a_sidecar_that_is_told_to_end_delivers_first_what_waits(
    contained: Contain, folder: Path, destination: RecordingDestination
) -> None:
    settings = transport(folder, {"a": leg(destination)}, relay="external", max_connections=1)
    destination.answer(201, delay=0.02)
    relay = contained(RELAY, "relay", "--drain", "60", settings=settings)
    relay.said("delivering from")
    emitter = contained(EMITTER, settings=settings)
    emitter.tell("0 100")
    emitter.said("done 0")
    assert len(destination.events) < 100
    relay.process.send_signal(signal.SIGTERM)
    assert relay.end() == 0
    assert sorted(map(int, names_in(destination))) == list(range(100))
    assert read_status(OutboxFiles(folder)).settled


def test_a_sidecar_that_is_told_to_end_in_an_outage_ends_in_time_or_when_it_is_told_again(
    contained: Contain, folder: Path, destination: RecordingDestination
) -> None:
    destination.down()
    settings = transport(folder, {"a": leg(destination)}, relay="external", stop_timeout=0.5)
    emitter = contained(EMITTER, settings=settings)
    emitter.tell("0 5")
    emitter.said("done 0")

    relay = contained(RELAY, "relay", "--drain", "2", settings=settings)
    relay.said("delivering from")
    began = time.monotonic()
    relay.process.send_signal(signal.SIGTERM)
    assert relay.end() == 0
    assert 2 <= time.monotonic() - began < 10

    relay = contained(RELAY, "relay", "--drain", "600", settings=settings)
    relay.said("delivering from")
    relay.process.send_signal(signal.SIGTERM)
    relay.said("delivers what waits")
    relay.process.send_signal(signal.SIGTERM)
    assert relay.end() == 0
    (left,) = read_status(OutboxFiles(folder)).destinations
    assert left.pending == 5


# The manifests of the documentation

DOCUMENTS = Path(__file__).parents[2] / "docs" / "containers.md"


def manifests() -> list[dict[str, Any]]:
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENTS.read_text(), re.DOTALL)
    return [one for block in blocks for one in yaml.safe_load_all(block)]


def understood(words: list[str]) -> None:
    """See that these are a command of Keepline's, with options that it has."""
    program, name, *rest = words
    command = cli.get_command(click.Context(cli), name)
    assert program == "keepline"
    assert command is not None
    command.make_context(name, rest)


def test_the_pods_in_the_documentation_have_a_relay_that_shares_the_outbox_and_drains() -> None:
    pods = [one for one in manifests() if one.get("kind") == "Pod"]
    assert len(pods) == 2
    for pod in pods:
        spec = pod["spec"]
        task, relay = spec["containers"][0], (spec.get("initContainers") or spec["containers"])[-1]
        if "args" not in relay:  # its process delivers by itself
            (said,) = (one["value"] for one in task["env"] if one["name"].endswith("TRANSPORT"))
            assert Settings.from_dict(json.loads(said)).relay is RelayMode.INLINE
            continue
        volumes = {one["name"] for one in spec["volumes"]}
        shared = [{(one["name"], one["mountPath"]) for one in each["volumeMounts"]} for each in (task, relay)]
        ((name, path),) = shared[0] & shared[1]
        assert name in volumes
        for container in (task, relay):
            (said,) = (one["value"] for one in container["env"] if one["name"].endswith("TRANSPORT"))
            settings = Settings.from_dict(json.loads(said))
            assert (settings.outbox, settings.relay) == (Path(path), RelayMode.EXTERNAL)
        assert relay["restartPolicy"] == "Always"
        drain = float(relay["args"][relay["args"].index("--drain") + 1])
        assert drain < spec["terminationGracePeriodSeconds"]
        understood(relay["command"] + relay["args"])
        understood(relay["livenessProbe"]["exec"]["command"])


def test_the_compose_file_in_the_documentation_has_a_relay_that_shares_the_outbox_and_drains() -> None:
    (compose,) = (one for one in manifests() if "services" in one)
    relay = compose["services"]["keepline"]
    volume, path = relay["volumes"][0].split(":")
    assert volume in compose["volumes"]
    said = relay["environment"]["OPENLINEAGE__TRANSPORT"]
    settings = Settings.from_dict(json.loads(said))
    assert (settings.outbox, settings.relay) == (Path(path), RelayMode.EXTERNAL)
    for name, service in compose["services"].items():
        if name != "keepline":
            assert relay["volumes"][0] in service["volumes"]
            assert service["environment"]["AIRFLOW__OPENLINEAGE__TRANSPORT"] == said
    drain = float(relay["command"][relay["command"].index("--drain") + 1])
    assert drain < float(relay["stop_grace_period"].removesuffix("s"))
    understood(relay["entrypoint"] + relay["command"])
    understood(relay["healthcheck"]["test"][1:])
