"""``keepline status``: where every destination stands."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keepline.cli.common import age, find_outbox, outbox_option, plain_errors
from keepline.errors import RelayError
from keepline.outbox.files import OutboxFiles
from keepline.outbox.status import OutboxStatus, read_status
from keepline.relay.lock import running

_PIPED_COLUMNS = 200


@click.command()
@outbox_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@plain_errors
def status(outbox: str | None, as_json: bool) -> None:
    """Show what waits, what was delivered and what is dead, for each destination."""
    files = find_outbox(outbox)
    found = read_status(files)
    relay = _relay(files)
    if as_json:
        click.echo(json.dumps(_document(files, found, relay), indent=2))
    else:
        _print(files, found, relay)


def _relay(files: OutboxFiles) -> dict[str, Any] | None:
    try:
        info = running(files)
    except RelayError:
        return {"pid": None, "version": None, "started_at": None}
    if info is None:
        return None
    return {"pid": info.pid, "version": info.version, "started_at": info.started_at}


def _document(files: OutboxFiles, found: OutboxStatus, relay: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "outbox": str(files.folder),
        "relay": relay,
        "waiting": found.waiting,
        "waiting_age": found.waiting_age,
        "refused": found.refused,
        "bytes_on_disk": found.bytes_on_disk,
        "destinations": [asdict(one) for one in found.destinations],
    }


def _print(files: OutboxFiles, found: OutboxStatus, relay: dict[str, Any] | None) -> None:
    # Without markup: what a destination says may look like it.
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPED_COLUMNS)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("destination", "state", "pending", "oldest", "delivered", "dead", "last answer"):
        table.add_column(
            title, justify="right" if title in ("pending", "oldest", "delivered", "dead") else "left"
        )
    for one in found.destinations:
        answered = one.last_answer.partition("\n")[0][:60]
        if one.last_answer_at is not None:
            answered += f" ({age(time.time() - one.last_answer_at)} ago)"
        table.add_row(
            Text(one.name),
            one.state if one.active else "orphan",
            str(one.pending),
            age(one.oldest_age),
            str(one.delivered),
            str(one.dead),
            Text(answered or "-"),
        )
    console.print(f"outbox  {files.folder}  ({found.bytes_on_disk / 1e6:.1f} MB)", soft_wrap=True)
    console.print(f"relay   {'not running' if relay is None else _describe(relay)}")
    if found.waiting:
        console.print(
            f"journal {found.waiting} events not taken in yet, the oldest {age(found.waiting_age)} old"
        )
    if found.refused:
        console.print(f"refused {found.refused} events could not be appended and are lost", style="red")
    if found.destinations:
        console.print(table)
    else:
        console.print("no relay has delivered from this outbox yet")
    for one in found.destinations:
        if one.active and one.state != "open":
            told = f"{one.name} is {one.state} for {age(time.time() - one.since)}: {one.reason}"
            console.print(told, soft_wrap=True)


def _describe(relay: dict[str, Any]) -> str:
    if relay["pid"] is None:
        return "starting"
    lived = age(time.time() - relay["started_at"])
    return f"running, pid {relay['pid']}, version {relay['version']}, for {lived}"
