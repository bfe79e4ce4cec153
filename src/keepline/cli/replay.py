"""``keepline replay``: deliver again what was delivered, is dead, or was never for a destination."""

from __future__ import annotations

from collections.abc import Iterable

import click

from keepline.cli.asking import introduce
from keepline.cli.common import (
    confirm,
    json_option,
    outbox_and_settings,
    outbox_option,
    plain_errors,
    yes_option,
)
from keepline.cli.replaying import Manner, replay_chosen
from keepline.cli.waiting import looking
from keepline.cli.when import FORMS, When, see_that_in_order
from keepline.config import Settings
from keepline.errors import RelayError
from keepline.outbox.delivery import DeliveryState
from keepline.outbox.destinations import known_destinations
from keepline.outbox.files import OutboxFiles
from keepline.outbox.selection import Selection, choose

_STATES = {
    "delivered": frozenset({DeliveryState.DELIVERED}),
    "dead": frozenset({DeliveryState.DEAD}),
    "discarded": frozenset({DeliveryState.DISCARDED}),
    "all": frozenset({DeliveryState.DELIVERED, DeliveryState.DEAD}),
}
_NO_FILTER = (None, None, None, None, "all")


@click.command(short_help="Deliver events again.")
@outbox_option
@click.option(
    "--destination",
    "destinations",
    metavar="NAME",
    multiple=True,
    help="To this destination, and then also what it never had; else to all, each what it had. Repeatable.",
)
@click.option("--run", metavar="RUN_ID", help="Only events of this run.")
@click.option("--job", metavar="JOB", help="Only events of this job: its name, or namespace/name.")
@click.option("--from", "since", type=When(), help=f"Only events appended since: {FORMS}.")
@click.option("--to", "until", type=When(), help="Only events appended before; as --from.")
@click.option(
    "--state",
    type=click.Choice(list(_STATES)),
    default="all",
    show_default=True,
    help="Only what has come to this end at the destination; all is delivered and dead, with --destination "
    "also what it never had, and not discarded.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be replayed, and do nothing.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it is delivered.")
@click.option(
    "--timeout", default=300.0, show_default=True, type=click.FloatRange(min=0), help="Longest wait, seconds."
)
@yes_option
@json_option
@plain_errors
def replay(
    outbox: str | None,
    destinations: tuple[str, ...],
    run: str | None,
    job: str | None,
    since: float | None,
    until: float | None,
    state: str,
    dry_run: bool,
    wait: bool,
    timeout: float,
    yes: bool,
    as_json: bool,
) -> None:
    """Deliver events again, in the order of appending, as far back as the outbox keeps them.

    A destination that is new in the configuration gets what came before it: `--destination NEW --from 2d`.
    Asks first when a receiver would see a run begin again whose end it was told, and when nothing says which
    events are meant.

    Exits with status 3 when something still waits at the end, and 4 when something was refused again.
    """
    see_that_in_order("--from", since, "--to", until)
    files, settings = outbox_and_settings(outbox)
    manner = Manner(dry_run=dry_run, yes=yes, wait=wait, timeout=timeout, as_json=as_json)
    names = _destinations(files, settings, destinations, manner)
    if names and not dry_run and not destinations and (run, job, since, until, state) == _NO_FILTER:
        confirm(f"this replays every event that is kept to {', '.join(names)}; go on", yes=yes)
    selection = Selection(
        _STATES[state],
        never_had=bool(destinations) and state == "all",
        run=run,
        job=job,
        since=since,
        until=until,
    )
    with looking("looking for events"):
        chosen = [choose(files, name, selection) for name in names]
    replay_chosen(files, settings, chosen, manner)


def _destinations(
    files: OutboxFiles, settings: Settings | None, asked: Iterable[str], manner: Manner
) -> list[str]:
    known = known_destinations(files)
    names = list(dict.fromkeys(asked))
    if not names:
        return [one.name for one in known.values() if one.active]
    configured = {leg.name for leg in settings.legs} if settings is not None else set()
    for name in names:
        if name in known and known[name].active:
            continue
        if settings is not None and name in configured:
            if not manner.dry_run:
                introduce(files, settings, name, manner.timeout)
        elif name in known:
            raise RelayError(
                f"nothing is delivered to `{name}` any more: it is out of the configuration; name it there "
                f"again, or drop it with `keepline forget {name}`"
            )
        else:
            there = ", ".join(sorted(configured | known.keys())) or "none"
            raise RelayError(f"there is no destination `{name}`; there is: {there}")
    return names
