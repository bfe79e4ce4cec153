"""Waiting for something to happen in an outbox, with a progress bar where somebody looks."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from keepline.outbox.files import OutboxFiles
from keepline.relay.bell import hang

_BETWEEN_LOOKS = 0.05
# Looking takes at most this part of the time.
_LOOKING = 0.1
_UNLESS_EVERY = 1.0


def wait_until(
    files: OutboxFiles, done: Callable[[], bool], timeout: float, *, unless: Callable[[], bool] | None = None
) -> bool:
    """Wait until something has come true that a change of the journal or the ledger brings about.

    Args:
        files: the outbox.
        done: looks.
        timeout: longest wait, seconds.
        unless: looks once a second for what makes waiting vain and rings no bell, such as the relay's end.

    Returns:
        whether it has come true.

    Raises:
        RelayError: the outbox can't be watched.
        Exception: what the look raises.
    """
    deadline = time.monotonic() + timeout
    if done():
        return True
    # The ledger's files change with every mark: waiting for that costs nothing while nothing happens.
    bells = [hang(folder) for folder in (files.folder, files.journal) if folder.is_dir()]
    try:
        with selectors.DefaultSelector() as selector:
            for bell in bells:
                selector.register(bell, selectors.EVENT_READ, bell)
            while True:
                began = time.monotonic()
                # Once more, for what happened before the bells hung.
                if done():
                    return True
                took = time.monotonic() - began
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                if unless is not None and unless():
                    return False
                for key, _ in selector.select(left if unless is None else min(left, _UNLESS_EVERY)):
                    key.data.silence()
                # Looking can itself ring, where no relay has the ledger open: not more often than this.
                left = max(deadline - time.monotonic(), 0.0)
                time.sleep(min(max(_BETWEEN_LOOKS, took / _LOOKING), left))
    finally:
        for bell in bells:
            bell.close()


def progress() -> Progress:
    """A progress bar on the standard error, where that is a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


@contextmanager
def looking(what: str) -> Iterator[None]:
    """Shows that something takes its time, on the standard error, where that is a terminal.

    Args:
        what: goes on.
    """
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        shown.add_task(what, total=None)
        yield
