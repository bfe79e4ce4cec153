"""Work in a child of this process, so that what it imports goes when it ends, and only its answer stays."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

_MOST_BYTES = 65536
_LENGTH_BYTES = 8
_END_SECONDS = 1.0


def apart(work: Callable[[], str], *, seconds: float) -> str | None:
    """Have a forked child do some work.

    Args:
        work: gives a text.
        seconds: longest time that it may take.

    Returns:
        the text; ``None`` when the child has failed in any way, or can't be made. It doesn't say of what:
        whoever does the work then here learns it.
    """
    # With other threads, a forked child could wait for ever for what one of them has locked.
    if not hasattr(os, "fork") or threading.active_count() > 1:
        return None
    theirs, ours = os.pipe()
    try:
        child = os.fork()
    except OSError:
        os.close(theirs)
        os.close(ours)
        return None
    if child == 0:
        _be_the_child(work, ours, seconds)
    os.close(ours)
    written = None
    try:
        written = _all_of(theirs, seconds)
    finally:
        os.close(theirs)
        # Whoever started this process may have it not collect its children.
        with suppress(ProcessLookupError, ChildProcessError):
            if written is None:
                os.kill(child, signal.SIGKILL)
                _collect_soon(child)
            else:
                os.waitpid(child, 0)
    # A child that is killed while it writes has not given its answer.
    if not written or int.from_bytes(written[:_LENGTH_BYTES], "big") != len(written) - _LENGTH_BYTES:
        return None
    return written[_LENGTH_BYTES:].decode()


def _be_the_child(work: Callable[[], str], pipe: int, seconds: float) -> NoReturn:
    try:
        # Should its parent be killed meanwhile, this must not outlive it for long.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        text = work().encode()
        with os.fdopen(pipe, "wb") as file:
            file.write(len(text).to_bytes(_LENGTH_BYTES, "big") + text)
    finally:
        # Neither the parent's way to end nor that of a module that was imported.
        os._exit(0)


def _collect_soon(child: int) -> None:
    """Collect a child that was killed, unless that takes long: one that a dead disk holds ends with it."""
    deadline = time.monotonic() + _END_SECONDS
    while not os.waitpid(child, os.WNOHANG)[0] and time.monotonic() < deadline:
        time.sleep(0.01)


def _all_of(pipe: int, seconds: float) -> bytes | None:
    """What is written until the pipe is closed; ``None`` if that takes too long."""
    deadline = time.monotonic() + seconds
    readable = select.poll()
    readable.register(pipe, select.POLLIN)
    written = b""
    while readable.poll(max(deadline - time.monotonic(), 0.0) * 1000):
        some = os.read(pipe, _MOST_BYTES)
        if not some:
            return written
        written += some
    return None
