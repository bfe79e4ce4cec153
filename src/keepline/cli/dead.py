"""``keepline dead``: what was given up, and what to do with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, TypeVar

import click

from keepline.cli.asking import give, wait_applied
from keepline.cli.common import (
    confirm,
    find_outbox,
    json_option,
    outbox_option,
    plain_errors,
    settings_for,
    yes_option,
)
from keepline.cli.printing import console, job, plain, several, table
from keepline.cli.replaying import Manner, replay_chosen
from keepline.cli.waiting import looking
from keepline.cli.when import FORMS, When, clock
from keepline.outbox.commands import Discard
from keepline.outbox.dead import DEAD, DeadLetter, body_of_event, dead_letters
from keepline.outbox.destinations import known_destinations
from keepline.outbox.files import OutboxFiles
from keepline.outbox.selection import Chosen, Selection, choose

_F = TypeVar("_F", bound=Callable[..., Any])
_EVENTS_EACH = 500
_ANSWER_COLUMNS = 60


@click.group()
def dead() -> None:
    """Show dead letters, replay them, or let go of them.

    A dead letter is a delivery that was given up. It is named `EVENT@DESTINATION`, as `keepline dead list`
    shows it, and kept until somebody replays or discards it.
    """


def _filters(command: _F) -> _F:
    for option in (
        click.option("--until", type=When(), help="Only those given up before; as --since."),
        click.option("--since", type=When(), help=f"Only those given up since: {FORMS}."),
        click.option("--run", metavar="RUN_ID", help="Only of this run."),
        click.option("--job", metavar="JOB", help="Only of this job: its name, or namespace/name."),
        click.option("--destination", metavar="NAME", help="Only of this destination."),
    ):
        command = option(command)
    return command


def _selection(job: str | None, run: str | None, since: float | None, until: float | None) -> Selection:
    return Selection(DEAD, job=job, run=run, ended_since=since, ended_until=until)


@dead.command("list")
@outbox_option
@_filters
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
        _known(files, destination)
    found, total = dead_letters(
        files, None if destination is None else [destination], _selection(job, run, since, until), limit
    )
    if as_json:
        click.echo(json.dumps({"total": total, "dead": [_document(one) for one in found]}, indent=2))
        return
    if not found:
        click.echo("no dead letters")
        return
    titles = ("dead letter", "type", "job", "run", "tries", "given up", "answer")
    console().print(table(titles, map(_row, found), right=("tries",)))
    if total > len(found):
        click.echo(f"and {total - len(found)} more (--limit)")


def _known(files: OutboxFiles, destination: str) -> None:
    names = known_destinations(files)
    if destination not in names:
        raise click.ClickException(
            f"there is no destination `{destination}`; there is: {', '.join(names) or 'none'}"
        )


def _row(one: DeadLetter) -> tuple[str, ...]:
    return (
        plain(one.ident),
        plain(one.event_type) or "-",
        job_of(one),
        plain(one.run) or "-",
        str(one.attempts),
        clock(one.ended_at),
        plain(_answer(one).partition("\n")[0])[:_ANSWER_COLUMNS],
    )


def job_of(one: DeadLetter) -> str:
    """The job of a dead letter, for people."""
    return job(one.job_namespace, one.job_name)


def _answer(one: DeadLetter) -> str:
    return one.answer or (f"HTTP {one.status}" if one.status is not None else "-")


def _document(one: DeadLetter) -> dict[str, Any]:
    return {"id": one.ident, **asdict(one)}


@dead.command()
@outbox_option
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@json_option
@plain_errors
def show(outbox: str | None, ids: tuple[str, ...], as_json: bool) -> None:
    """Show all that is kept of dead letters, with their events."""
    files = find_outbox(outbox)
    found = [(one, body_of_event(files, one.event)) for one in _letters(files, ids)]
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
            ("job", job_of(one)),
        ):
            click.echo(f"{title:<12} {value}")
        click.echo("event")
        click.echo(_pretty(body))


def _letters(files: OutboxFiles, ids: tuple[str, ...]) -> list[DeadLetter]:
    letters = []
    for destination, events in _parsed(ids).items():
        found, _ = dead_letters(files, [destination], Selection(DEAD, events=events), len(events))
        _none_missing(destination, events, {one.event for one in found})
        letters += found[::-1]
    return letters


def _parsed(ids: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    found: dict[str, list[int]] = {}
    for each in dict.fromkeys(ids):
        event, at, destination = each.partition("@")
        # What is longer is none of ours, and SQLite couldn't hold it.
        if not (at and destination and event.isascii() and event.isdecimal() and len(event) < 19):
            raise click.BadParameter(
                f"{each!r} names no dead letter; give one as `keepline dead list` shows it"
            )
        found.setdefault(destination, []).append(int(event))
    return {destination: tuple(events) for destination, events in found.items()}


def _none_missing(destination: str, events: tuple[int, ...], there: set[int]) -> None:
    missing = [f"{event}@{destination}" for event in events if event not in there]
    if missing:
        raise click.ClickException(f"no dead letter {', '.join(missing)}; see `keepline dead list`")


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


_ids = click.argument("ids", metavar="[ID]...", nargs=-1)
_all = click.option("--all", "everything", is_flag=True, help="All dead letters.")


@dead.command("replay")
@outbox_option
@_ids
@_all
@_filters
@click.option("--dry-run", is_flag=True, help="Say what would be replayed, and do nothing.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it is delivered.")
@click.option(
    "--timeout", default=300.0, show_default=True, type=click.FloatRange(min=0), help="Longest wait, seconds."
)
@yes_option
@json_option
@plain_errors
def replay_(
    outbox: str | None,
    ids: tuple[str, ...],
    everything: bool,
    destination: str | None,
    job: str | None,
    run: str | None,
    since: float | None,
    until: float | None,
    dry_run: bool,
    wait: bool,
    timeout: float,
    yes: bool,
    as_json: bool,
) -> None:
    """Deliver dead letters again.

    Exits with status 3 when something still waits at the end, and 4 when something was refused again.
    """
    files = find_outbox(outbox)
    settings = settings_for(outbox)
    chosen = _chosen(files, ids, everything, destination, _selection(job, run, since, until))
    known = known_destinations(files)
    for one in chosen:
        if not known[one.destination].active:
            raise click.ClickException(
                f"nothing is delivered to `{one.destination}` any more: it is out of the configuration; name "
                "it there again, or say with --destination which of the others is meant"
            )
    manner = Manner(dry_run=dry_run, yes=yes, wait=wait, timeout=timeout, as_json=as_json)
    replay_chosen(files, settings, chosen, manner)


@dead.command()
@outbox_option
@_ids
@_all
@_filters
@click.option(
    "--timeout", default=60.0, show_default=True, type=click.FloatRange(min=0), help="Longest wait, seconds."
)
@yes_option
@json_option
@plain_errors
def discard(
    outbox: str | None,
    ids: tuple[str, ...],
    everything: bool,
    destination: str | None,
    job: str | None,
    run: str | None,
    since: float | None,
    until: float | None,
    timeout: float,
    yes: bool,
    as_json: bool,
) -> None:
    """Let go of dead letters. They are counted as discarded, and deleted with what else is old."""
    files = find_outbox(outbox)
    settings = settings_for(outbox)
    chosen = _chosen(files, ids, everything, destination, _selection(job, run, since, until))
    counts = {one.destination: len(one.events) for one in chosen}
    told = ", ".join(f"{count} of {name}" for name, count in counts.items())
    if chosen:
        confirm(
            f"this lets go of {several(sum(counts.values()), 'dead letter')} for good ({told}); go on",
            yes=yes,
        )
    commands = (
        Discard(one.ledger, one.destination, tuple(one.events[begin : begin + _EVENTS_EACH]))
        for one in chosen
        for begin in range(0, len(one.events), _EVENTS_EACH)
    )
    wait_applied(files, give(files, settings, commands) if chosen else None, timeout)
    if as_json:
        click.echo(json.dumps({"discarded": counts}, indent=2))
    else:
        click.echo(f"discarded {told}" if chosen else "nothing to discard")


def _chosen(
    files: OutboxFiles, ids: tuple[str, ...], everything: bool, destination: str | None, selection: Selection
) -> list[Chosen]:
    """What was asked for, for each destination that has some of it."""
    filtered = destination is not None or selection != Selection(DEAD)
    if [bool(ids), everything, filtered].count(True) != 1:
        raise click.UsageError("say which: some IDs, or --all, or filters such as --destination")
    if ids:
        found = []
        for name, events in _parsed(ids).items():
            found.append(choose(files, name, replace(selection, events=events)))
            _none_missing(name, events, set(found[-1].events))
        return found
    if destination is not None:
        _known(files, destination)
    names = [destination] if destination is not None else list(known_destinations(files))
    with looking("looking for dead letters"):
        chosen = [choose(files, name, selection) for name in names]
    return [one for one in chosen if one.events]
