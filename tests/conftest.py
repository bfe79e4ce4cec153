"""What tests share: an environment that configures nothing, outboxes, destinations, processes."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from keepline.demo.destination import RecordingDestination

if TYPE_CHECKING:
    from tests.support_relay import Process, ThreadedRelay

ROOT = Path(__file__).parents[1]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing is configured from outside, here and in processes that are started; gives the home folder."""
    for name in list(os.environ):
        ours = name.startswith(("OPENLINEAGE", "KEEPLINE", "AIRFLOW", "DD_"))
        if ours or name.lower().endswith(("_proxy", "_ca_bundle")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    # For processes that are started: they find the tests' own modules.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "src")]))
    return home


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Path]:
    """The folder of an outbox; not there yet. Whatever delivers from it is killed at the end."""
    from tests.support_relay import end_relays

    folder = tmp_path / "outbox"
    yield folder
    end_relays(folder)


@pytest.fixture
def destination() -> Iterator[RecordingDestination]:
    with RecordingDestination() as one:
        yield one


@pytest.fixture
def other() -> Iterator[RecordingDestination]:
    with RecordingDestination() as one:
        yield one


@pytest.fixture
def deliver(outbox: Path) -> Iterator[Callable[..., ThreadedRelay]]:
    """Starts relays in threads of this process, given the legs and settings; stops them at the end."""
    from tests.support_relay import Settings, ThreadedRelay, transport

    started: list[ThreadedRelay] = []

    def start(legs: Any, **keys: Any) -> ThreadedRelay:
        settings = Settings.from_dict(transport(outbox, legs, **{"stop_timeout": 0.2, **keys}))
        started.append(ThreadedRelay(settings))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def process(environment: Path) -> Iterator[Callable[..., Process]]:
    """Starts Python processes, given their code, arguments and variables; kills them at the end."""
    from tests.support_relay import Process

    started: list[Process] = []

    def start(code: str, *words: object, **env: str) -> Process:
        started.append(Process(code, *words, env=env, cwd=environment))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed, with its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    name = ["-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1"]
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name]
    made = subprocess.run([*openssl, "-keyout", path], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + made.stdout)
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[RecordingDestination]:
    """A destination that speaks HTTPS, with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with RecordingDestination(tls=context) as one:
        yield one


@pytest.fixture
def keepline(process: Callable[..., Process]) -> Callable[..., Process]:
    """Starts the console command, given its arguments and variables."""

    def start(*words: object, **env: str) -> Process:
        return process("from keepline.cli import main; main()", *words, **env)

    return start
