"""What this process holds back while it starts another."""

from __future__ import annotations

import contextlib
import signal
import warnings

# Multiprocessing imports them at its first fork. A child that another thread forks at that moment would wait
# for the import for ever.
from multiprocessing import connection, popen_fork  # noqa: F401
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Hold back signals, and Python's warning of threads."""
    # Python 3.12 and later warn that other threads may hold locks at a fork; a worker that meets one isn't
    # ready in time, and is replaced. The filter stays, since catch_warnings isn't safe in a thread: it would
    # undo what other threads have changed meanwhile.
    warnings.filterwarnings(
        "ignore", "This process .* is multi-threaded", DeprecationWarning, r"multiprocessing\.popen_fork"
    )
    with holding_signals():
        yield


@contextlib.contextmanager
def holding_signals() -> Iterator[None]:
    """Hold back signals, from this thread and from the process that it starts meanwhile."""
    # Until the worker has handlers of its own, a signal would run the owner's in it, or end it.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
