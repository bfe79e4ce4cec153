"""``keepline flush``: wait until everything is delivered."""

from __future__ import annotations

import selectors
import time

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from keepline.cli.common import find_outbox, outbox_option, plain_errors, settings_for
from keepline.config import RelayMode
from keepline.errors import RelayError
from keepline.outbox.files import OutboxFiles
from keepline.outbox.status import OutboxStatus, read_status
from keepline.relay.bell import hang
from keepline.relay.launch import start
from keepline.relay.lock import running

_EXIT_NOT_DELIVERED = 3
_BETWEEN_LOOKS = 0.05


@click.command()
@outbox_option
@click.option(
    "--timeout", default=60.0, show_default=True, type=click.FloatRange(min=0), help="Longest wait, seconds."
)
@plain_errors
def flush(outbox: str | None, timeout: float) -> None:
    """Wait until every event is delivered or dead.

    Starts a relay where none runs, unless `relay: external` is configured. Exits with status 3 when something
    still waits at the end.
    """
    files = find_outbox(outbox)
    if not files.folder.is_dir():
        click.echo(f"nothing waits: there is no outbox at {files.folder}")
        return
    _start_relay(outbox)
    left = _wait(files, timeout)
    if left.settled:
        click.echo("everything is delivered or dead")
        return
    for one in left.destinations:
        if one.active and one.pending:
            why = one.reason or one.last_answer or "no answer yet"
            click.echo(f"{one.name}: {one.pending} pending, {one.state}: {why}")
    if left.waiting:
        none = "" if _runs(files) else "; none runs"
        click.echo(f"{left.waiting} events wait for a relay to take them in{none}")
    click.echo(f"not everything is delivered after {timeout:g} s; it stays in the outbox")
    raise SystemExit(_EXIT_NOT_DELIVERED)


def _start_relay(outbox: str | None) -> None:
    settings = settings_for(outbox)
    if settings is not None and settings.relay is not RelayMode.EXTERNAL:
        start(settings)


def _runs(files: OutboxFiles) -> bool:
    try:
        return running(files) is not None
    except RelayError:
        return True  # It is just starting.


def _wait(files: OutboxFiles, timeout: float) -> OutboxStatus:
    deadline = time.monotonic() + timeout
    found = read_status(files)
    if found.settled:
        return found
    # The ledger's files change with every mark: waiting for that costs nothing while nothing happens.
    bells = [hang(folder) for folder in (files.folder, files.journal) if folder.is_dir()]
    try:
        with _progress() as progress, selectors.DefaultSelector() as selector:
            for bell in bells:
                selector.register(bell, selectors.EVENT_READ, bell)
            most = _waiting(found)
            task = progress.add_task("delivering", total=most)
            # Once more, for what happened before the bells hung.
            while not (found := read_status(files)).settled:
                most = max(most, _waiting(found))
                progress.update(task, total=most, completed=most - _waiting(found))
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                for key, _ in selector.select(left):
                    key.data.silence()
                # Looking can itself ring, where no relay has the ledger open: not more often than this.
                time.sleep(min(_BETWEEN_LOOKS, left))
            return found
    finally:
        for bell in bells:
            bell.close()


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _waiting(found: OutboxStatus) -> int:
    active = [one for one in found.destinations if one.active]
    return found.waiting * max(len(active), 1) + sum(one.pending for one in active)
