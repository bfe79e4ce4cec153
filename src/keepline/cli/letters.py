"""Which dead letters a command is about: their names, and the options that choose them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import click

from keepline.cli.waiting import looking
from keepline.cli.when import FORMS, When, see_that_in_order
from keepline.outbox.dead import DEAD
from keepline.outbox.destinations import known_destinations
from keepline.outbox.files import OutboxFiles
from keepline.outbox.selection import Chosen, Selection, choose

_F = TypeVar("_F", bound=Callable[..., Any])
ids_argument = click.argument("ids", metavar="[ID]...", nargs=-1)
all_option = click.option("--all", "everything", is_flag=True, help="All dead letters that fit the filters.")


def filters(command: _F) -> _F:
    """Add the options by which dead letters are chosen."""
    for option in (
        click.option("--until", type=When(), help="Only those given up before; as --since."),
        click.option("--since", type=When(), help=f"Only those given up since: {FORMS}."),
        click.option("--run", metavar="RUN_ID", help="Only of this run."),
        click.option("--job", metavar="JOB", help="Only of this job: its name, or namespace/name."),
        click.option("--destination", metavar="NAME", help="Only of this destination."),
    ):
        command = option(command)
    return command


def selection_of(job: str | None, run: str | None, since: float | None, until: float | None) -> Selection:
    """What these options ask for."""
    see_that_in_order("--since", since, "--until", until)
    return Selection(DEAD, job=job, run=run, ended_since=since, ended_until=until)


def see_that_known(files: OutboxFiles, destination: str) -> None:
    """Raise where no relay has had a destination.

    Args:
        files: the outbox.
        destination: its name.

    Raises:
        ClickException: it isn't known; names those that are.
    """
    names = known_destinations(files)
    if destination not in names:
        raise click.ClickException(
            f"there is no destination `{destination}`; there is: {', '.join(names) or 'none'}"
        )


def parsed(ids: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """The events that IDs name, by their destination.

    Args:
        ids: each ``<event>@<destination>``.

    Raises:
        BadParameter: one isn't that.
    """
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


def see_that_all_are_there(destination: str, events: tuple[int, ...], there: set[int]) -> None:
    """Raise where somebody named what isn't there.

    Args:
        destination: its name.
        events: that were named.
        there: those of them that are dead letters.

    Raises:
        ClickException: some aren't; names them.
    """
    missing = [f"{event}@{destination}" for event in events if event not in there]
    if missing:
        raise click.ClickException(f"no dead letter {', '.join(missing)}; see `keepline dead list`")


def chosen_of(
    files: OutboxFiles, ids: tuple[str, ...], everything: bool, destination: str | None, selection: Selection
) -> list[Chosen]:
    """What was asked for, for each destination that has some of it.

    Args:
        files: the outbox.
        ids: that were named.
        everything: whether all are meant.
        destination: the only one that is meant.
        selection: what the other options ask for.

    Raises:
        ClickException: what was named isn't there.
        UsageError: nothing was said, or too much.
        OutboxError: the outbox can't be read.
    """
    filtered = destination is not None or selection != Selection(DEAD)
    if ids and (everything or filtered):
        raise click.UsageError("give either IDs, or --all or filters such as --destination; not both")
    if not (ids or everything or filtered):
        raise click.UsageError("say which: some IDs, or --all, or filters such as --destination")
    if ids:
        found = []
        for name, events in parsed(ids).items():
            found.append(choose(files, name, replace(selection, events=events)))
            see_that_all_are_there(name, events, set(found[-1].events))
        return found
    if destination is not None:
        see_that_known(files, destination)
    names = [destination] if destination is not None else list(known_destinations(files))
    with looking("looking for dead letters"):
        chosen = [choose(files, name, selection) for name in names]
    return [one for one in chosen if one.events]
