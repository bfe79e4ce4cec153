"""Starts and drives the process that `keepline demo --seed` measures, and ends it whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

# What could send its events elsewhere than to loopback, or to an outbox of the user's.
_NOT_INHERITED = ("OPENLINEAGE", "KEEPLINE", "DD_")
_END_SECONDS = 5.0


class SeedProcess:
    """A `keepline.demo.seed_worker`, from ``with`` to its end.

    Args:
        folder: where it may leave files.
        transport: the ``transport`` configuration of an OpenLineage client.
        client_per_event: whether it makes a client for each event, or one for all.

    Attributes:
        pid: of the process.
    """

    def __init__(self, folder: Path, transport: dict[str, Any], *, client_per_event: bool) -> None:
        self._folder = folder
        self._errors = folder / "worker.log"
        self._order = {"config": {"transport": transport}, "client_per_event": client_per_event}

    def __enter__(self) -> SeedProcess:
        # The client takes this file for an openlineage.yml of the user's.
        settings = self._folder / "openlineage.yml"
        settings.write_text("transport: {}\n")
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_NOT_INHERITED) and not name.lower().endswith("_proxy")
        }
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "keepline.demo.seed_worker"],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self._folder,
                env={**environment, "OPENLINEAGE_CONFIG": str(settings)},
                start_new_session=True,  # Ctrl-C is for this process alone, which ends that one
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self.pid = self._process.pid
        self._tell(json.dumps(self._order))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Killed rather than asked: hundreds of clients' threads would each take their time.
        self._process.kill()
        self._process.wait()
        self._stdin.close()
        self._stdout.close()

    def emit_up_to(self, events: int, timeout: float) -> None:
        """Have it emit, until it has emitted so many events in all.

        Args:
            events: how many.
            timeout: seconds.

        Raises:
            TimeoutError: it hasn't within that time.
            EOFError: it has ended; says why.
        """
        self._tell(str(events))
        if not self._speaks(timeout):
            raise TimeoutError(f"it hasn't emitted {events} events within {timeout:.0f} s")
        self._listen()

    def stay_idle(self, seconds: float) -> None:
        """Wait, asking nothing of it.

        Raises:
            EOFError: it has ended; says why.
        """
        if self._speaks(seconds):
            self._listen()

    def _tell(self, line: str) -> None:
        # When it has ended, listening tells why.
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(f"{line}\n".encode())

    def _speaks(self, timeout: float) -> bool:
        return bool(select.select([self._stdout], [], [], timeout)[0])

    def _listen(self) -> None:
        if not self._stdout.readline():
            status = self._process.wait(_END_SECONDS)
            last = self._errors.read_text(errors="replace").strip().rpartition("\n")[2]
            raise EOFError(f"it has ended with status {status} {last}".strip())
