"""``keepline flush``: wait until everything is delivered."""

from __future__ import annotations

import select
import time

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from keepline.cli.common import configured, find_outbox, outbox_option, plain_errors
from keepline.config import RelayMode, Settings
from keepline.outbox.files import OutboxFiles
from keepline.outbox.status import OutboxStatus, read_status
from keepline.relay.bell import hang
from keepline.relay.launch import start

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

    Starts a relay where none runs and `relay: auto` is configured. Exits with status 3 when something still
    waits at the end.
    """
    files = find_outbox(outbox)
    if not files.folder.is_dir():
        click.echo(f"nothing waits: there is no outbox at {files.folder}")
        return
    _start_relay(files)
    left = _wait(files, timeout)
    waiting = _waiting(left)
    if waiting:
        for one in left.destinations:
            if one.active and one.pending:
                why = one.reason or one.last_answer or "no answer yet"
                click.echo(f"{one.name}: {one.pending} pending, {one.state}: {why}")
        click.echo(f"not everything is delivered after {timeout:g} s; it stays in the outbox")
        raise SystemExit(_EXIT_NOT_DELIVERED)
    click.echo("everything is delivered or dead")


def _start_relay(files: OutboxFiles) -> None:
    settings = configured()
    if settings is None or settings.relay is RelayMode.EXTERNAL:
        return
    if settings.outbox != files.folder:
        settings = Settings.from_dict({**settings.raw, "outbox": str(files.folder)})
    start(settings)


def _wait(files: OutboxFiles, timeout: float) -> OutboxStatus:
    deadline = time.monotonic() + timeout
    # The ledger's files change with every mark: waiting for that costs nothing while nothing happens.
    bells = [hang(files.folder), hang(files.journal)]
    try:
        with _progress() as progress:
            found = read_status(files)
            most = _waiting(found)
            task = progress.add_task("delivering", total=most)
            while not found.settled:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                for bell in select.select(bells, [], [], left)[0]:
                    bell.silence()
                # Looking can itself ring, where no relay has the ledger open: not more often than this.
                time.sleep(min(_BETWEEN_LOOKS, left))
                found = read_status(files)
                most = max(most, _waiting(found))
                progress.update(task, total=most, completed=most - _waiting(found))
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
