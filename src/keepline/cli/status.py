"""``keepline status``: where every destination stands."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

import click

from keepline.cli.common import age, json_option, locate, outbox_option, plain_errors
from keepline.cli.printing import plain, print_table, several, size
from keepline.errors import RelayError
from keepline.outbox.files import OutboxFiles
from keepline.outbox.status import DestinationStatus, OutboxStatus, read_status
from keepline.relay.lock import running

_ANSWER_COLUMNS = 60


@click.command(short_help="Show what waits, was delivered or is dead.")
@outbox_option
@json_option
@plain_errors
def status(outbox: str | None, as_json: bool) -> None:
    """Show what waits, what was delivered and what is dead, for each destination."""
    files, settings = locate(outbox)
    most = None if settings is None else int(settings.tuning.max_bytes)
    found = read_status(files)
    relay = _relay(files)
    if as_json:
        click.echo(json.dumps(_document(files, found, relay, most), indent=2))
    else:
        _print(files, found, relay, most)


def _relay(files: OutboxFiles) -> dict[str, Any] | None:
    try:
        info = running(files)
    except RelayError:
        return {"pid": None, "version": None, "started_at": None, "inline": False}
    if info is None:
        return None
    return {
        "pid": info.pid,
        "version": info.version,
        "started_at": info.started_at,
        "inline": info.inline,
    }


def _document(
    files: OutboxFiles, found: OutboxStatus, relay: dict[str, Any] | None, most: int | None
) -> dict[str, Any]:
    return {
        "outbox": str(files.folder),
        "relay": relay,
        "waiting": found.waiting,
        "waiting_age": found.waiting_age,
        "commands": found.commands,
        "refused": found.refused,
        "bytes_on_disk": found.bytes_on_disk,
        "max_bytes": most,
        "damaged": list(found.damaged),
        "destinations": [{**asdict(one), "state": _state(one)} for one in found.destinations],
    }


def _print(files: OutboxFiles, found: OutboxStatus, relay: dict[str, Any] | None, most: int | None) -> None:
    bound = "" if most is None else f" of {size(most)}"
    click.echo(f"outbox  {files.folder}  ({size(found.bytes_on_disk)}{bound})")
    click.echo(f"relay   {'not running' if relay is None else _describe(relay)}")
    if found.waiting:
        click.echo(
            f"journal {found.waiting} events not taken in yet, the oldest {age(found.waiting_age)} old"
        )
    if found.commands:
        click.echo(f"journal {several(found.commands, 'command')} not applied yet")
    if found.refused:
        click.secho(f"refused {found.refused} events could not be appended and are lost", fg="red")
    if found.damaged:
        click.secho(
            f"damaged {several(len(found.damaged), 'file')} set aside in {files.damaged}; see what can be "
            "saved of them, then delete them",
            fg="red",
        )
    if not found.destinations:
        click.echo("no relay has delivered from this outbox yet")
        return
    titles = ("destination", "state", "pending", "oldest", "delivered", "dead", "discarded", "last answer")
    print_table(titles, map(_row, found.destinations), right=titles[2:7])
    for one in found.destinations:
        if not one.active:
            click.echo(
                f"{one.name} is out of the configuration: {one.pending} pending and {one.dead} dead wait "
                f"until it is named there again, or for `keepline forget {one.name}`",
            )
        elif one.state != "open":
            told = f"{one.name} has been {one.state} for {age(time.time() - one.since)}: {plain(one.reason)}"
            click.echo(told)
    dead = sum(one.dead for one in found.destinations)
    if dead:
        click.echo(f"{several(dead, 'dead letter')}: see `keepline dead list`")


def _state(one: DestinationStatus) -> str:
    return one.state if one.active else "orphan"


def _row(one: DestinationStatus) -> tuple[str, ...]:
    answered = one.last_answer.partition("\n")[0][:_ANSWER_COLUMNS]
    if one.last_answer_at is not None:
        answered += f" ({age(time.time() - one.last_answer_at)} ago)"
    return (
        one.name,
        _state(one),
        str(one.pending),
        age(one.oldest_age),
        str(one.delivered),
        str(one.dead),
        str(one.discarded),
        answered or "-",
    )


def _describe(relay: dict[str, Any]) -> str:
    if relay["pid"] is None:
        return "starting"
    lived = age(time.time() - relay["started_at"])
    where = ", inside a program that emits" if relay["inline"] else ""
    return f"running{where}, pid {relay['pid']}, version {relay['version']}, for {lived}"
