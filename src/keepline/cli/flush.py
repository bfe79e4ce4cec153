"""``keepline flush``: wait until everything is delivered."""

from __future__ import annotations

import json
from typing import Any

import click

from keepline.cli.asking import EXIT_WAITS, RelayGone, runs, start_relay
from keepline.cli.common import json_option, outbox_and_settings, outbox_option, plain_errors
from keepline.cli.printing import several
from keepline.cli.waiting import progress, wait_until
from keepline.errors import OutboxDamaged, RelayError
from keepline.outbox.files import OutboxFiles
from keepline.outbox.status import OutboxStatus, read_status


@click.command(short_help="Wait until everything is delivered.")
@outbox_option
@click.option(
    "--timeout", default=60.0, show_default=True, type=click.FloatRange(min=0), help="Longest wait, seconds."
)
@json_option
@plain_errors
def flush(outbox: str | None, timeout: float, as_json: bool) -> None:
    """Wait until every event is delivered or dead.

    Starts a relay where none runs, unless `relay: external` is configured. Exits with status 3 when something
    still waits at the end.
    """
    files, settings = outbox_and_settings(outbox, may_come=True)
    if not files.folder.is_dir():
        click.echo(
            json.dumps(_document(None), indent=2)
            if as_json
            else f"nothing waits: there is no outbox at {files.folder}"
        )
        return
    start_relay(settings)
    left = _wait(files, timeout)
    if as_json:
        click.echo(json.dumps(_document(left), indent=2))
        raise SystemExit(0 if left.settled else EXIT_WAITS)
    if left.settled:
        click.echo("everything is delivered or dead" + _orphans(left))
        return
    for one in left.destinations:
        if one.active and one.pending:
            why = one.reason or one.last_answer or "no answer yet"
            click.echo(f"{one.name}: {one.pending} pending, {one.state}: {why}")
    none = "" if runs(files) else "; no relay runs"
    if left.waiting:
        click.echo(f"{left.waiting} events wait for a relay to take them in{none}")
    if left.commands:
        click.echo(f"{several(left.commands, 'command')} not applied yet{none}")
    click.echo(f"not everything is delivered after {timeout:g} s; it stays in the outbox" + _orphans(left))
    raise SystemExit(EXIT_WAITS)


def _document(left: OutboxStatus | None) -> dict[str, Any]:
    return {
        "settled": left is None or left.settled,
        "waiting": 0 if left is None else left.waiting,
        "commands": 0 if left is None else left.commands,
        "destinations": [
            {
                "name": one.name,
                "state": one.state if one.active else "orphan",
                "pending": one.pending,
                "reason": one.reason,
            }
            for one in (() if left is None else left.destinations)
        ],
    }


def _orphans(found: OutboxStatus) -> str:
    waiting = [
        f"{one.pending} for {one.name}" for one in found.destinations if one.pending and not one.active
    ]
    if not waiting:
        return ""
    return f"; {', '.join(waiting)} wait until it is configured again (or `keepline forget`)"


def _wait(files: OutboxFiles, timeout: float) -> OutboxStatus:
    found: OutboxStatus | OutboxDamaged | None = None
    most = 0
    gone = RelayGone(files)
    with progress() as shown:
        task = shown.add_task("delivering", total=None)

        def settled() -> bool:
            nonlocal found, most
            try:
                found = read_status(files)
            except OutboxDamaged as error:
                # The relay that was just started is about to repair it.
                found = error
                return False
            most = max(most, _waiting(found))
            shown.update(task, total=most, completed=most - _waiting(found))
            return found.settled

        wait_until(files, settled, timeout, unless=lambda: isinstance(found, OutboxDamaged) and gone())
    if not isinstance(found, OutboxStatus):
        raise found or RelayError(f"the outbox at {files.folder} could not be looked at")
    return found


def _waiting(found: OutboxStatus) -> int:
    active = [one for one in found.destinations if one.active]
    return found.waiting * max(len(active), 1) + sum(one.pending for one in active)
