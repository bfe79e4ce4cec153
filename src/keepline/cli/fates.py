"""What became of one event at one destination, in words."""

from __future__ import annotations

from collections.abc import Sequence

from keepline.cli.printing import plain, several
from keepline.cli.when import clock
from keepline.config import Settings
from keepline.outbox.tracing import TracedDelivery

_COLUMNS = 100


def told(one: TracedDelivery, all_: Sequence[TracedDelivery], settings: Settings | None) -> str:
    """What became of an event.

    Args:
        one: at which destination.
        all_: of the same event.
        settings: as configured here; ``None`` where that isn't known.
    """
    if one.state == "none":
        return f"not for it: {_why_not(all_, settings)}"
    answer = _line(one.answer or _status(one))
    tries = several(one.attempts, "try").replace("trys", "tries")
    if one.state == "pending":
        why = _line(one.why) or _why_it_waits(one, settings)
        if not one.attempts:
            return f"pending: {why}"
        return f"pending: {why}; {tries}" + ("" if answer in why else f", last answer {answer}")
    if one.state == "delivered" and one.status is not None and not one.answer.startswith("HTTP "):
        # The answers of those that were asked before it.
        answer = _status(one) + (f"; before: {answer}" if one.answer else "")
    return f"{one.state} {clock(one.ended_at)}, {tries}" + (f", {answer}" if answer else "")


def _line(text: str) -> str:
    return plain(text.partition("\n")[0])[:_COLUMNS]


def _status(one: TracedDelivery) -> str:
    return "" if one.status is None else f"HTTP {one.status}"


def _why_it_waits(one: TracedDelivery, settings: Settings | None) -> str:
    if not one.charged:
        return "its turn has not come yet"
    most = "" if settings is None else f" of at most {settings.tuning.poison_attempts:g}"
    return f"fails while others come through, {one.charged}{most} times; its run waits for it"


def _why_not(all_: Sequence[TracedDelivery], settings: Settings | None) -> str:
    if settings is None:
        return "it wasn't configured then, or another destination took it"
    names = {leg.name for leg in settings.legs} if settings.failover else ()
    for other in all_:
        if other.destination in names and other.state != "none":
            name = plain(other.destination)
            if other.state == "delivered":
                return f"taken by `{name}`"
            return f"it waits at `{name}`" if other.state == "pending" else f"{other.state} at `{name}`"
    return "it wasn't configured then"
