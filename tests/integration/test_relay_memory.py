"""What a relay takes that has little to do: it does without the client where it only needs its settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.support_relay import (
    Process,
    append,
    arrive_once,
    client,
    leg,
    relay_of,
    run_event,
    transport,
    until,
)

import keepline as package
from keepline.cli import apart
from keepline.config import Settings
from keepline.demo.destination import RecordingDestination
from keepline.destinations.endpoint import Endpoint
from keepline.destinations.legs import parse
from keepline.destinations.native import endpoint_of

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

MOST_BYTES = 45 * 1024 * 1024

READ = """
import json, sys
sys.path.insert(0, sys.argv[2])
from keepline.config import Settings
from keepline.destinations import connect, ready
exec(sys.argv[3])
found, error = [], ""
try:
    found = ready.ready(Settings.from_dict(json.loads(sys.argv[1])).legs)
except Exception as e:
    error = f"{type(e).__name__}: {e}"
texts = [one.endpoint.to_json() if one.endpoint else None for one in found]
print(json.dumps([texts, error, "openlineage.client" in sys.modules]))
"""


def read_in_a_process(outbox: Path, legs: object, before: str = "") -> tuple[list[str | None], str, bool]:
    """What a process comes to that begins without the client, and whether it has it then."""
    root = str(Path(package.__file__).parent.parent)
    command = [sys.executable, "-c", READ, json.dumps(transport(outbox, legs)), root, before]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    texts, error, has_client = json.loads(done.stdout)
    return texts, error, has_client


NATIVE = {
    "plain": {"type": "http", "url": "http://127.0.0.1:1", "endpoint": "v1"},
    "keyed": {
        "type": "async_http",
        "url": "https://user:s3cr3t-pass@127.0.0.1:1/x?token=s3cr3t-token",
        "auth": {"type": "api_key", "apiKey": "s3cr3t-key"},
        "custom_headers": {"X-Mine": "\u00e9", "content-type": "text/plain"},
        "compression": "gzip",
        "timeout": 7,
        "verify": False,
    },
    "datadog": {"type": "datadog", "apiKey": "s3cr3t-dd"},
}


def test_a_detached_relay_of_native_legs_is_small(
    outbox: Path, destination: RecordingDestination, other: RecordingDestination
) -> None:
    legs = {"a": leg(destination), "d": {"type": "datadog", "apiKey": "k", "site": other.url}}
    emitting = client(outbox, legs)
    emitting.emit(run_event("one"))
    arrive_once(destination, ["one"])
    arrive_once(other, ["one"])
    relay = until(lambda: relay_of(outbox))
    process = psutil.Process(relay.pid)
    assert process.memory_info().rss < MOST_BYTES
    assert process.children() == []
    emitting.close()


def test_a_relay_in_the_foreground_is_small_too(
    keepline: Callable[..., Process], outbox: Path, destination: RecordingDestination
) -> None:
    settings = json.dumps(transport(outbox, {"a": leg(destination)}))
    running = keepline("relay", OPENLINEAGE__TRANSPORT=settings)
    arrive_once(destination, append(outbox, ["one"]))
    assert psutil.Process(running.pid).memory_info().rss < MOST_BYTES
    assert running.output == f"delivering from {outbox} to a\n"


def test_settings_that_are_found_apart_bring_the_folders_that_were_added_meanwhile(
    monkeypatch: pytest.MonkeyPatch, outbox: Path
) -> None:
    here = os.getpid()

    # As Airflow adds that of its plugins.
    def found(option: str | None) -> Settings:
        sys.path.append(f"/added/{option}" if os.getpid() != here else "/added/here")
        return Settings.from_dict(transport(outbox, NATIVE))

    monkeypatch.setattr(apart, "settings_for", found)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert apart.settings_apart("there") == found(None)
    assert sys.path[-2:] == ["/added/there", "/added/here"]


def test_endpoints_are_read_as_they_are_with_the_client_and_without_keeping_it(outbox: Path) -> None:
    texts, error, has_client = read_in_a_process(outbox, NATIVE)
    legs = Settings.from_dict(transport(outbox, NATIVE)).legs
    assert error == ""
    assert [Endpoint.from_json(text) for text in texts if text] == [endpoint_of(parse(one)) for one in legs]
    assert not has_client


def test_a_leg_that_is_driven_has_no_endpoint_beside_those_that_do(outbox: Path) -> None:
    texts, error, _ = read_in_a_process(outbox, {**NATIVE, "c": {"type": "console"}})
    assert error == ""
    assert [bool(text) for text in texts] == [True, True, True, False]


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "http"},
        {"type": "http", "url": "no address"},
        {"type": "http", "url": "http://127.0.0.1", "timeout": "soon"},
        {"type": "datadog", "apiKey": "k", "site": 7},
        {"type": "no.such.Transport"},
        {"type": "kafka"},
    ],
    ids=str,
)
def test_a_wrong_leg_gets_the_client_s_own_words(outbox: Path, wrong: dict[str, object]) -> None:
    legs = {**NATIVE, "w": wrong}
    with pytest.raises(Exception) as raised:
        parse(Settings.from_dict(transport(outbox, legs)).legs[-1])
    _, error, _ = read_in_a_process(outbox, legs)
    assert error == f"{type(raised.value).__name__}: {raised.value}"


@pytest.mark.parametrize(
    ("fault", "before"),
    [
        ("time.sleep(600)", "from keepline.destinations import ready; ready._READ_SECONDS = 1.0\n"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", ""),
        ("sys.exit(7)", ""),
    ],
    ids=["it hangs", "it crashes", "it exits"],
)
def test_what_goes_wrong_in_the_child_alone_goes_right_without_it(
    fault: str, before: str, outbox: Path, tmp_path: Path
) -> None:
    # Some modules don't bear a fork.
    module = (
        "import os, signal, sys, time\n"
        f"if os.getpid() != sys.relay: {fault}\n"
        "from openlineage.client.transport.console import ConsoleTransport\n"
    )
    (tmp_path / "delicate.py").write_text(module)
    before = f"import os, sys; sys.relay = os.getpid(); sys.path.insert(0, {str(tmp_path)!r})\n{before}"
    legs = {**NATIVE, "d": {"type": "delicate.ConsoleTransport"}}
    texts, error, has_client = read_in_a_process(outbox, legs, before)
    assert error == ""
    assert [bool(text) for text in texts] == [True, True, True, False]
    assert has_client


def test_with_other_threads_about_no_child_is_made(outbox: Path) -> None:
    before = (
        "import os, threading; del os.fork\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    texts, error, has_client = read_in_a_process(outbox, NATIVE, before)
    assert (len(texts), error, has_client) == (3, "", True)
