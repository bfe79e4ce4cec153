"""A process that is a relay: detached, started by an append, or in the foreground, run by somebody."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keepline.config import Settings
from keepline.errors import RelayError
from keepline.outbox.files import OutboxFiles
from keepline.relay.launch import LENGTH_BYTES
from keepline.relay.lock import RelayLock
from keepline.relay.logs import log_to_file

log = logging.getLogger(__name__)

_TAKE_SECONDS = 10


def serve(
    settings: Settings,
    lock: RelayLock,
    *,
    ends_when_idle: bool,
    ready: Callable[[], None],
    foreground: bool = False,
    drain: float = 0.0,
) -> None:
    """Run a relay in this process's main thread until it is told to end by SIGTERM or SIGINT.

    Args:
        settings: what to deliver, and where to.
        lock: held; given back at the end.
        ends_when_idle: whether it ends by itself.
        ready: called when it is about to deliver.
        foreground: whether somebody runs it, and would have to restart it.
        drain: seconds that the first signal leaves to deliver what waits.

    Raises:
        OutboxError: the outbox can't be opened.
        RelayError: the journal can't be watched or is gone, or something nobody foresaw went wrong.
        Exception: a leg's settings are wrong; the client's own message.
    """
    try:
        # Before the import, which takes a while: whoever asks for the relay learns of it.
        lock.announce(settings, foreground=foreground)
        from keepline.relay.relay import Relay

        relay = Relay(settings, lock, ends_when_idle=ends_when_idle)
        relay.call_on_signal((signal.SIGTERM, signal.SIGINT), drain=drain)
        ready()
        relay.run()
    finally:
        lock.release()


def detached(folder: Path, lock_fd: int) -> None:
    """Be the relay that an append has started. Its settings come on standard input. Doesn't return.

    Args:
        folder: of the outbox.
        lock_fd: file of the relay's lock, held.
    """
    files = OutboxFiles(folder)
    os.umask(0o077)
    formatter = log_to_file(files.relay_log)
    status = 0
    try:
        # Whoever started it may keep signals from a thread, and a process inherits that.
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        handed = _take_settings()
        # A user's own transport may stand in a folder that only the starter knows, such as Airflow's plugins.
        sys.path.extend(entry for entry in handed["path"] if entry not in sys.path)
        lock = RelayLock.take_over(files, lock_fd)
        if lock is not None:
            settings = Settings.from_dict(handed.pop("settings"))
            formatter.hide(settings)
            _deliver(settings, lock)
    except RelayError as error:
        log.error("%s; events wait in the outbox", error)
        status = 1
    except Exception:
        log.exception("the relay of %s ends with an error; events wait in the outbox", folder)
        status = 1
    leave(status)


def _take_settings() -> dict[str, Any]:
    # The starter may have been killed in the middle, with a fork of it keeping the pipe open.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_TAKE_SECONDS)
    length = int.from_bytes(sys.stdin.buffer.read(LENGTH_BYTES), "big")
    text = sys.stdin.buffer.read(length)
    signal.alarm(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if not length or len(text) < length:
        raise RelayError("the relay has been given no settings: its starter ended too soon")
    handed: dict[str, Any] = json.loads(text)
    return handed


def _deliver(settings: Settings, lock: RelayLock) -> None:
    names = ", ".join(leg.name for leg in settings.legs)
    serve(
        settings,
        lock,
        ends_when_idle=True,
        ready=lambda: log.info("relay of %s delivers to %s", settings.outbox, names),
    )


def leave(status: int) -> None:
    """End this process, also when a transport has left threads that never end.

    Args:
        status: the exit status.
    """
    main = threading.main_thread()
    left = [thread.name for thread in threading.enumerate() if thread is not main]
    if left:
        # The interpreter would wait for some of them for ever, whether daemons or not.
        log.warning("ends without waiting for the threads %s", ", ".join(left))
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)
    raise SystemExit(status)
