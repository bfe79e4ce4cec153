"""Starting a relay beside a process that appends.

The relay is detached: a session of its own, no parent, so that neither the end of the process that started it
nor the killing of that process's children ends it. Its settings, and the secrets in them, go over a pipe.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import time
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path

import keepline
from keepline.config import Settings
from keepline.errors import RelayError
from keepline.outbox.files import OutboxFiles, open_private, unavailable
from keepline.relay.lock import RelayLock

log = logging.getLogger(__name__)

# The package is found where this process has found it, whatever the new one would look for.
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import keepline; del sys.path[0]; "
    "from keepline.relay.detach import main; main()"
)
_HAND_OVER_SECONDS = 2.0
LENGTH_BYTES = 8
"""Of the number that goes before the settings on the pipe, and says how many bytes they have."""

_launched: deque[int] = deque()


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
    except BaseException:
        lock.release()
        raise
    lock.hand_over()
    return True


def _spawn(settings: Settings, files: OutboxFiles, lock: RelayLock) -> None:
    text = json.dumps({"settings": json.loads(settings.to_json()), "path": _import_path()}).encode()
    # Its end can't be told by the pipe's: a process that was just forked from this one may keep that open.
    handed = len(text).to_bytes(LENGTH_BYTES, "big") + text
    try:
        output = open_private(files.relay_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    except OSError as error:
        raise unavailable("open", files.relay_log, error) from error
    try:
        _hand_over(handed, _popen(files, lock, output), files)
    finally:
        os.close(output)


def _import_path() -> list[str]:
    path = []
    for entry in sys.path:
        # One that isn't absolute would mean another folder there; in a folder that is gone it means none.
        with suppress(OSError):
            path.append(os.path.abspath(os.fsdecode(entry)))  # noqa: PTH100 - resolve() would follow links
    return path


def _popen(files: OutboxFiles, lock: RelayLock, output: int) -> int:
    """Start the process; what is written to the file that is returned comes to its standard input."""
    root = Path(keepline.__file__).parent.parent
    command = [sys.executable, "-c", _BOOT, str(root), str(files.folder), str(lock.fd)]
    with ExitStack() as undo:
        try:
            theirs, ours = os.pipe()
            undo.callback(os.close, ours)
            with os.fdopen(theirs, "rb") as stdin:
                process = subprocess.Popen(
                    command,
                    stdin=stdin,
                    stdout=output,
                    stderr=output,
                    pass_fds=(lock.fd,),
                    start_new_session=True,
                    cwd="/",
                )
        except (OSError, ValueError, TypeError) as error:
            raise RelayError(
                f"can't start a relay with {sys.executable or 'no sys.executable'}: {error}; events wait in "
                f"{files.folder}, run `keepline relay` to deliver them"
            ) from error
        undo.pop_all()
    _launched.append(process.pid)
    # reap() collects its status, by its number: this object would complain of an end it hasn't seen.
    process.returncode = 0
    return ours


def _hand_over(handed: bytes, pipe: int, files: OutboxFiles) -> None:
    deadline = time.monotonic() + _HAND_OVER_SECONDS
    # A pipe takes 64 KB at once. An append must not wait for more than a moment for the rest to be read.
    os.set_blocking(pipe, False)
    writable = select.poll()
    writable.register(pipe, select.POLLOUT)
    try:
        while handed:
            try:
                handed = handed[os.write(pipe, handed) :]
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0 or not writable.poll(left * 1000):
                    raise RelayError(f"the relay of {files.folder} doesn't take its settings") from None
    except BrokenPipeError:
        raise RelayError(f"the relay of {files.folder} has ended at once; see {files.relay_log}") from None
    finally:
        os.close(pipe)


def reap() -> None:
    """Collect the exit statuses of the short-lived processes that :func:`start` began."""
    for _ in range(len(_launched)):
        try:
            pid = _launched.popleft()
        except IndexError:
            return  # Another thread does it.
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue  # Somebody else has collected it, or this process was forked from its parent.
        if not ended:
            _launched.append(pid)
        elif status:
            code = os.waitstatus_to_exitcode(status)
            log.warning("keepline's relay could not be started (exit status %d); its log says why", code)


def reap_too(pid: int) -> None:
    """Have :func:`reap` collect the exit status of another child of this process, which ends with 0.

    Args:
        pid: its number.
    """
    _launched.append(pid)


def launched() -> bool:
    """Whether there is anything to :func:`reap`."""
    return bool(_launched)
