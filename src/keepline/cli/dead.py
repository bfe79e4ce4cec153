"""``keepline dead``: what was given up, and what to do with it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from keepline.cli.common import find_outbox, json_option, outbox_option, plain_errors
from keepline.cli.dead_discard import discard
from keepline.cli.dead_replay import replay
from keepline.cli.letters import filters, parsed, see_that_all_are_there, see_that_known, selection_of
from keepline.cli.printing import job, plain, print_table
from keepline.cli.when import clock
from keepline.outbox.contents import body_of_event
from keepline.outbox.dead import DEAD, DeadLetter, dead_letters
from keepline.outbox.files import OutboxFiles
from keepline.outbox.selection import Selection

_ANSWER_COLUMNS = 60


@click.group(short_help="Show dead letters, replay or discard them.")
def dead() -> None:
    """Show dead letters, replay them, or let go of them.

    A dead letter is a delivery that was given up. It is named `EVENT@DESTINATION`, as `keepline dead list`
    shows it, and kept until somebody replays or discards it.
    """


@dead.command("list")
@outbox_option
@filters
@click.option("--limit", default=50, show_default=True, type=click.IntRange(min=1), help="Most to show.")
@json_option
@plain_errors
def list_(
    outbox: str | None,
    destination: str | None,
    job: str | None,
    run: str | None,
    since: float | None,
    until: float | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show dead letters, those that were appended last first."""
    files = find_outbox(outbox)
    if destination is not None:
        see_that_known(files, destination)
    found, total = dead_letters(
        files, None if destination is None else [destination], selection_of(job, run, since, until), limit
    )
    if as_json:
        click.echo(json.dumps({"total": total, "dead": [_document(one) for one in found]}, indent=2))
        return
    if not found:
        click.echo("no dead letters")
        return
    titles = ("dead letter", "type", "job", "run", "tries", "given up", "answer")
    print_table(titles, map(_row, found), right=("tries",))
    if total > len(found):
        click.echo(f"and {total - len(found)} more (--limit)")


def _row(one: DeadLetter) -> tuple[str, ...]:
    return (
        plain(one.ident),
        plain(one.event_type) or "-",
        job(one.job_namespace, one.job_name),
        plain(one.run) or "-",
        str(one.attempts),
        clock(one.ended_at),
        plain(_answer(one).partition("\n")[0])[:_ANSWER_COLUMNS],
    )


def _answer(one: DeadLetter) -> str:
    return one.answer or (f"HTTP {one.status}" if one.status is not None else "-")


def _document(one: DeadLetter) -> dict[str, Any]:
    return {"id": one.ident, **asdict(one)}


@dead.command()
@outbox_option
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option(
    "--raw", is_flag=True, help="Only the events, byte for byte as they were appended, each on a line."
)
@json_option
@plain_errors
def show(outbox: str | None, ids: tuple[str, ...], raw: bool, as_json: bool) -> None:
    """Show all that is kept of dead letters, with their events."""
    files = find_outbox(outbox)
    found = [(one, body_of_event(files, one.event)) for one in _letters(files, ids)]
    if raw:
        for one, body in found:
            if body is None:
                raise click.ClickException(f"the event of {one.ident} is damaged or gone")
            click.echo(body)
        return
    if as_json:
        documents = [{**_document(one), "body": _read(body)} for one, body in found]
        click.echo(json.dumps({"dead": documents}, indent=2))
        return
    for number, (one, body) in enumerate(found):
        if number:
            click.echo()
        for title, value in (
            ("dead letter", plain(one.ident)),
            ("destination", plain(one.destination)),
            ("status", "-" if one.status is None else str(one.status)),
            ("answer", " ".join(map(plain, _answer(one).splitlines()))),
            ("tries", str(one.attempts)),
            ("first tried", clock(one.first_at)),
            ("given up", clock(one.ended_at)),
            ("appended", clock(one.appended_at)),
            ("type", plain(one.event_type) or "-"),
            ("run", plain(one.run) or "-"),
            ("job", job(one.job_namespace, one.job_name)),
        ):
            click.echo(f"{title:<12} {value}")
        click.echo("event")
        click.echo(_pretty(body))


def _letters(files: OutboxFiles, ids: tuple[str, ...]) -> list[DeadLetter]:
    letters: dict[tuple[int, str], DeadLetter] = {}
    named = parsed(ids)
    for destination, events in named.items():
        found, _ = dead_letters(files, [destination], Selection(DEAD, events=events), len(events))
        see_that_all_are_there(destination, events, {one.event for one in found})
        letters.update({(one.event, destination): one for one in found})
    return [letters[event, destination] for destination, events in named.items() for event in events]


def _read(body: bytes | None) -> object:
    """The event as it goes into a document: as JSON where it is JSON."""
    try:
        return None if body is None else json.loads(body)
    except (ValueError, RecursionError):
        return None if body is None else body.decode("utf-8", "backslashreplace")


def _pretty(body: bytes | None) -> str:
    if body is None:
        return "damaged or gone"
    read = _read(body)
    text = read if isinstance(read, str) else json.dumps(read, indent=2)
    return "\n".join(map(plain, text.split("\n")))


dead.add_command(replay)
dead.add_command(discard)
