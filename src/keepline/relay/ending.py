"""Ending the relay of an outbox, and waiting for its end."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress

from keepline.errors import RelayError
from keepline.outbox.files import OutboxFiles
from keepline.relay.lock import RelayInfo, running, this_place

_BETWEEN_LOOKS = 0.05


def stop(files: OutboxFiles, timeout: float) -> RelayInfo | None:
    """End the relay of an outbox, if one runs, and wait for its end.

    Args:
        files: the outbox.
        timeout: longest wait, seconds.

    Returns:
        the relay that ended; ``None`` when none ran.

    Raises:
        OutboxUnavailable: the outbox can't be read.
        RelayError: it hasn't ended in time, or can't be ended from here.
    """
    deadline = time.monotonic() + timeout
    relay = _find(files, deadline)
    if relay is None:
        return None
    if relay.place != this_place():
        # Here its number means no process, or somebody else's.
        raise RelayError(f"the relay (pid {relay.pid}) runs in {relay.place}; stop it there")
    if relay.inline:
        raise RelayError(
            f"the relay is a thread of another program (pid {relay.pid}, `relay: inline`) and ends with that"
        )
    try:
        ended = _end(files, relay, deadline)
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


def _find(files: OutboxFiles, deadline: float) -> RelayInfo | None:
    while True:
        try:
            return running(files)
        except RelayError:
            # It is just starting, and soon says who it is.
            if time.monotonic() >= deadline:
                raise
            time.sleep(_BETWEEN_LOOKS)


def _end(files: OutboxFiles, relay: RelayInfo, deadline: float) -> bool:
    if not hasattr(os, "pidfd_open"):
        os.kill(relay.pid, signal.SIGTERM)
        return _wait_by_looking(files, relay, deadline)
    pidfd = os.pidfd_open(relay.pid)
    try:
        # From here on the number can't come to mean another process; see that it didn't before.
        if not _still(files, relay):
            return True
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        return bool(ended.poll(max(deadline - time.monotonic(), 0.0) * 1000))
    finally:
        os.close(pidfd)


def _still(files: OutboxFiles, relay: RelayInfo) -> bool:
    with suppress(RelayError):
        return running(files) == relay
    return False


def _wait_by_looking(files: OutboxFiles, relay: RelayInfo, deadline: float) -> bool:
    # Only where the system can't wait for a process that isn't a child.
    while time.monotonic() < deadline:
        if not _still(files, relay):
            return True
        time.sleep(_BETWEEN_LOOKS)
    return False
