"""Starting a relay beside a process that appends, and ending one.

The relay is detached: a session of its own, no parent, so that neither the end of the process that started it
nor the killing of that process's children ends it. Its settings, and the secrets in them, go over a pipe.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

from keepline.config import Settings
from keepline.errors import ConfigError, OutboxError, RelayError
from keepline.outbox.files import OutboxFiles, open_private, unavailable
from keepline.relay.lock import RelayInfo, RelayLock, running

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0
"""Seconds between two looks of one process at whether a relay lives."""


def start(settings: Settings) -> bool:
    """Start a relay unless one runs.

    Args:
        settings: what to hand over.

    Returns:
        whether one was started.

    Raises:
        OutboxUnavailable: the outbox can't be used.
        RelayError: the process can't be started.
        ConfigError: the settings can't be handed over.
    """
    files = OutboxFiles(settings.outbox)
    lock = RelayLock.take(files)
    if lock is None:
        return False
    try:
        _spawn(settings, files, lock)
    finally:
        # The child has a copy of the lock's file: the lock stays held until it ends or takes its own.
        lock.release()
    return True


def _spawn(settings: Settings, files: OutboxFiles, lock: RelayLock) -> None:
    text = json.dumps({"settings": json.loads(settings.to_json()), "path": sys.path}).encode()
    try:
        output = open_private(files.relay_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    except OSError as error:
        raise unavailable("open", files.relay_log, error) from error
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "keepline.relay", str(files.folder), str(lock.fd)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=(lock.fd,),
            start_new_session=True,
            cwd="/",
        )
    except (OSError, ValueError) as error:
        raise RelayError(
            f"can't start a relay with {sys.executable}: {error}; events wait in {files.folder}, run "
            "`keepline relay` to deliver them"
        ) from error
    finally:
        os.close(output)
    assert process.stdin is not None
    with suppress(OSError), process.stdin:
        process.stdin.write(text)
    _leave(process)


class _Launched:
    """Processes that started a relay and end by themselves at once; reaped at the next start or look."""

    processes: list[subprocess.Popen[bytes]] = []  # noqa: RUF012 - one list a process, on purpose


def _leave(process: subprocess.Popen[bytes]) -> None:
    reap()
    _Launched.processes.append(process)


def reap() -> None:
    """Collect the exit statuses of the short-lived processes that :func:`start` began."""
    _Launched.processes[:] = [one for one in _Launched.processes if one.poll() is None]


@dataclass
class Watch:
    """Looks now and then whether a relay lives, and starts one; for a process that appends.

    A failure to start one is logged, at a bounded rate: the events are safe in the outbox.

    Args:
        settings: what to hand over.
    """

    settings: Settings
    _next_look: float = 0.0
    _warned_at: float = -1e9

    def look(self, *, now: bool) -> None:
        """See to it that a relay lives.

        Args:
            now: look at once, whenever the last look was.
        """
        clock = time.monotonic()
        if not now and clock < self._next_look:
            return
        self._next_look = clock + LOOK_EVERY
        reap()
        try:
            start(self.settings)
        except (OutboxError, RelayError, ConfigError) as error:
            if clock - self._warned_at >= 60.0:
                self._warned_at = clock
                log.warning("keepline can't start its relay; events wait in the outbox: %s", error)


def stop(files: OutboxFiles, timeout: float) -> RelayInfo | None:
    """End the relay of an outbox, if one runs, and wait for its end.

    Args:
        files: the outbox.
        timeout: longest wait, seconds.

    Returns:
        the relay that ended; ``None`` when none ran.

    Raises:
        RelayError: it hasn't ended in time, or another user's process runs it.
    """
    relay = running(files)
    if relay is None:
        return None
    try:
        ended = _end(files, relay, timeout)
    except ProcessLookupError:
        return relay
    except PermissionError as error:
        raise RelayError(
            f"the relay (pid {relay.pid}) belongs to another user; stop it as that user"
        ) from error
    if not ended:
        raise RelayError(
            f"the relay (pid {relay.pid}) has not ended within {timeout:g} s; end it with kill -9"
        )
    return relay


def _end(files: OutboxFiles, relay: RelayInfo, timeout: float) -> bool:
    if not hasattr(os, "pidfd_open"):
        os.kill(relay.pid, signal.SIGTERM)
        return _wait_by_looking(files, relay, timeout)
    pidfd = os.pidfd_open(relay.pid)
    try:
        # From here on the number can't come to mean another process; see that it didn't before.
        if running(files) != relay:
            return True
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        return bool(select.select([pidfd], [], [], timeout)[0])
    finally:
        os.close(pidfd)


def _wait_by_looking(files: OutboxFiles, relay: RelayInfo, timeout: float) -> bool:
    # Only where the system can't wait for a process that isn't a child.
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if running(files) != relay:
            return True
        time.sleep(0.05)
    return False
