"""Processes that are measured: each fresh, configured by one file, and ended whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from keepline.demo.processes import cpu_seconds
from keepline.outbox.files import OutboxFiles
from keepline.outbox.status import OutboxStatus, read_status

# What could configure a process from outside, or send its events elsewhere than to loopback.
_NOT_INHERITED = ("OPENLINEAGE", "KEEPLINE", "AIRFLOW", "DD_")
_END_SECONDS = 30.0
_STILL_SECONDS = 60.0


class Child:
    """A Python process, from ``with`` to its end.

    Args:
        folder: where it may leave files.
        *words: of its command line, after the interpreter.
        transport: the configuration that an OpenLineage client finds there.
    """

    def __init__(self, folder: Path, *words: str, transport: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._words, self._log = words, folder / "child.log"
        self._settings = folder / "openlineage.yml"
        # JSON is YAML too.
        self._settings.write_text(json.dumps({"transport": transport}))
        self.cpu_in_all = 0.0
        """CPU seconds of all its life, and of its children; known when it has ended."""

    def __enter__(self) -> Child:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_NOT_INHERITED) and not name.lower().endswith("_proxy")
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**inherited, "OPENLINEAGE_CONFIG": str(self._settings)},
            )
        self.pid = self._process.pid
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._process.returncode is None:
            os.kill(self.pid, signal.SIGKILL)
        self.end()

    def end(self) -> None:
        """Ask it to end, and wait for that."""
        if self._process.returncode is not None:
            return
        os.kill(self.pid, signal.SIGTERM)
        killer = threading.Timer(_END_SECONDS, self._kill)
        killer.start()
        self._collect()
        killer.cancel()

    def said(self) -> Any:
        """What it prints, which is JSON, when it has ended by itself."""
        assert self._process.stdout is not None
        text = self._process.stdout.read()
        self._collect()
        if self._process.returncode:
            raise SystemExit(f"{' '.join(self._words)}: {self._log.read_text()[-2000:]}")
        return json.loads(text)

    def cpu(self) -> float:
        """CPU seconds that it has used."""
        return cpu_seconds(self.pid)

    def memory(self) -> tuple[float, float]:
        """Resident memory now and at most, MB."""
        return memory(self.pid)

    def fail(self, why: str) -> SystemExit:
        """The error to raise when it doesn't do what it should."""
        return SystemExit(f"{why}; what it has logged:\n{self._log.read_text()[-2000:]}")

    def ended(self) -> bool:
        """Whether it has, which those that are measured from outside must not."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _collect(self) -> None:
        # Not Popen's own wait: its children's CPU time counts, and only this call tells it.
        _, status, usage = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_in_all = usage.ru_utime + usage.ru_stime
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def memory(pid: int | str = "self") -> tuple[float, float]:
    """Resident memory of a process now and at most, MB of 10^6 bytes."""
    # Not getrusage's, which counts the process it was forked from.
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    now, most = (int(lines[key].split()[0]) * 1024 / 1e6 for key in ("VmRSS", "VmHWM"))
    return round(now, 1), round(most, 1)


def transport(outbox: Path, url: str, **settings: Any) -> dict[str, Any]:
    """Keepline's configuration, with one destination."""
    legs = {"nginx": {"type": "http", "url": url}}
    return {
        "type": "keepline.Transport",
        "outbox": str(outbox),
        "relay": "external",
        "transports": legs,
        **settings,
    }


def relay(outbox: Path, url: str, **settings: Any) -> Child:
    """A relay in the foreground."""
    command = "from keepline.cli import main; main()"
    configured = transport(outbox, url, **settings)
    return Child(outbox.parent / f"{outbox.name}.relay", "-c", command, "relay", transport=configured)


def status_when(
    outbox: Path, child: Child, met: Callable[[OutboxStatus], bool], pause: float = 0.005
) -> OutboxStatus:
    """Look at an outbox until a condition is met.

    Args:
        outbox: its folder.
        child: the relay that has to bring it about.
        met: the condition.
        pause: seconds between two looks.
    """
    seen, moved = None, time.monotonic()
    while not met(found := read_status(OutboxFiles(outbox))):
        state = (found.waiting, [(one.pending, one.delivered) for one in found.destinations])
        if state != seen:
            seen, moved = state, time.monotonic()
        if child.ended() or time.monotonic() - moved > _STILL_SECONDS:
            raise child.fail(f"the relay has stopped at {found}")
        time.sleep(pause)
    return found


@contextmanager
def forks(function: Callable[[int], object], many: int) -> Iterator[None]:
    """Forked processes that each do something, given their number; at the end they are waited for.

    Raises:
        SystemExit: some have failed.
    """
    left: list[int] = []
    failed = 0
    try:
        for number in range(many):
            left.append(_forked(function, number))
        yield
        while left:
            failed += os.waitpid(left[-1], 0)[1] != 0
            left.pop()
    finally:
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    if failed:
        raise SystemExit(f"{failed} of {many} processes failed; what they say stands above")


def _forked(function: Callable[[int], object], number: int) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function(number)
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid
