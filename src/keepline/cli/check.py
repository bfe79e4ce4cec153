"""``keepline check``: whether all is well, for probes and monitoring."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from keepline.apart import apart
from keepline.cli.checking import CHECKS, Finding, Limits, findings, summary
from keepline.cli.common import find_outbox, in_words, json_option, outbox_option
from keepline.cli.when import FORMS, When
from keepline.relay.glance import Glance, look

EXIT_UNHEALTHY = 1
EXIT_UNKNOWN = 2

_NAMES = click.Choice(list(CHECKS))


@click.command(short_help="Tell by the exit status whether all is well.")
@outbox_option
@click.option(
    "--max-age", default=900.0, show_default=True, type=click.FloatRange(min=0),
    help="Seconds that an event may wait for a destination.",
)  # fmt: skip
@click.option(
    "--max-pending", default=100_000, show_default=True, type=click.IntRange(min=0),
    help="How many deliveries may wait.",
)  # fmt: skip
@click.option(
    "--max-dead", default=0, show_default=True, type=click.IntRange(min=0),
    help="How many dead letters may have come since --since.",
)  # fmt: skip
@click.option(
    "--since", default="1h", show_default=True, type=When(), metavar="TIME",
    help=f"Dead letters and refused events of before are history: {FORMS}.",
)  # fmt: skip
@click.option(
    "--min-free", default=100, show_default=True, type=click.IntRange(min=0), metavar="MB",
    help="What has to be left on the outbox's disk.",
)  # fmt: skip
@click.option("--relay", is_flag=True, help="A relay has to run although nothing waits.")
@click.option("--only", multiple=True, type=_NAMES, help="This check and no other; may be given again.")
@click.option("--ignore", multiple=True, type=_NAMES, help="Leave this check out; may be given again.")
@click.option(
    "--timeout", default=10.0, show_default=True, type=click.FloatRange(min=0.1, max=3600.0),
    help="Longest time to look, seconds.",
)  # fmt: skip
@json_option
def check(
    outbox: str | None,
    max_age: float,
    max_pending: int,
    max_dead: int,
    since: float,
    min_free: int,
    relay: bool,
    only: Sequence[str],
    ignore: Sequence[str],
    timeout: float,
    as_json: bool,
) -> None:
    """Tell whether all is well with an outbox: one line, and the exit status.

    0: all is well. 1: something isn't; the line says what. 2: it can't be told, since the outbox can't be
    looked at within the time, or the command is used wrongly.

    It looks, and changes nothing. Given --outbox or KEEPLINE_OUTBOX it is quick, and reads no configuration.
    """
    names = [name for name in (only or CHECKS) if name not in ignore]
    if not names:
        raise click.UsageError("--ignore leaves nothing of --only to check")
    seen = _look(outbox, since, timeout)
    if isinstance(seen, str):
        click.echo(json.dumps({"healthy": None, "error": seen}) if as_json else f"UNKNOWN: {seen}")
        raise SystemExit(EXIT_UNKNOWN)
    limits = Limits(max_age, max_pending, max_dead, since, min_free * 1_000_000, relay)
    found = findings(seen, limits, names)
    wrong = [one.said for one in found if not one.ok]
    if as_json:
        click.echo(json.dumps(_document(seen, found), indent=2))
    else:
        click.echo(f"UNHEALTHY: {'; '.join(wrong)}" if wrong else f"OK: {summary(seen)}")
    raise SystemExit(EXIT_UNHEALTHY if wrong else 0)


def _look(outbox: str | None, since: float, timeout: float) -> Glance | str:
    """What there is to see, or why it can't be seen."""

    # A disk that doesn't answer holds up whoever asks it, beyond the reach of any exception.
    def work() -> str:
        try:
            return look(find_outbox(outbox, may_come=True), since=since).to_json()
        except Exception as error:
            return json.dumps({"error": in_words(error)})

    began = time.monotonic()
    text = apart(work, seconds=timeout)
    if text is None:
        late = time.monotonic() - began >= timeout
        return (
            f"no answer within {timeout:g} s"
            if late
            else "the look at the outbox has ended without an answer"
        )
    told: dict[str, Any] = json.loads(text)
    return str(told["error"]) if "error" in told else Glance.from_json(text)


def _document(seen: Glance, found: list[Finding]) -> dict[str, Any]:
    return {
        "healthy": all(one.ok for one in found),
        "outbox": seen.folder,
        "pending": seen.pending,
        "oldest_age": seen.oldest_age,
        "checks": [asdict(one) for one in found],
    }
