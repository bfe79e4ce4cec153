"""What makes an outbox unhealthy: decides from a glance and from limits, and does no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from keepline.cli.common import age
from keepline.cli.printing import plain, several, size
from keepline.relay.glance import Glance

# A relay that was just asked for needs a moment; one that takes in what waits writes to the ledger all along.
_RELAY_SECONDS = 30.0
_STUCK_SECONDS = 60.0
_REASON_CHARACTERS = 120


@dataclass(frozen=True)
class Limits:
    """What is still healthy.

    Args:
        age: seconds that an event may wait.
        pending: how many deliveries may wait.
        dead: how many dead letters there may be that came since ``since``.
        since: s since 1970; dead letters and refused appends of before are history.
        free_bytes: what has to be left on the disk.
        relay: whether a relay has to run although nothing waits.
    """

    age: float
    pending: int
    dead: int
    since: float
    free_bytes: int
    relay: bool


@dataclass(frozen=True)
class Finding:
    """What one check came to.

    Args:
        name: of the check.
        ok: whether it is passed.
        value: what was found.
        limit: what it was compared with; ``None`` where there is no such thing.
        said: in words what isn't as it should be; may be so although the check is passed.
    """

    name: str
    ok: bool
    value: float | str | None
    limit: float | None
    said: str = ""


def _relay(seen: Glance, limits: Limits) -> Finding:
    if seen.relay is None:
        overdue = (seen.oldest_age or 0.0) >= _RELAY_SECONDS
        said = f"no relay runs, and {seen.pending} wait" if overdue else "no relay runs"
        return Finding("relay", not (overdue or limits.relay), "none", None, said)
    untouched = min(
        seen.outbox.waiting_age or 0.0,
        seen.at - (seen.written_at or 0.0),
        seen.at - (seen.relay_since or seen.at),
    )
    if untouched >= _STUCK_SECONDS:
        said = f"the relay (pid {seen.relay}) has taken nothing in for {age(untouched)}"
        return Finding("relay", False, "stuck", _STUCK_SECONDS, said)
    return Finding("relay", True, "running", None)


def _age(seen: Glance, limits: Limits) -> Finding:
    oldest = seen.oldest_age
    said = ""
    if oldest is not None and oldest > limits.age:
        said = f"the oldest event has waited for {age(oldest)} (limit {age(limits.age)})"
    return Finding("age", not said, oldest, limits.age, said)


def _pending(seen: Glance, limits: Limits) -> Finding:
    said = ""
    if seen.pending > limits.pending:
        said = f"{seen.pending} deliveries wait (limit {limits.pending})"
    return Finding("pending", not said, seen.pending, limits.pending, said)


def _dead(seen: Glance, limits: Limits) -> Finding:
    said = ""
    if seen.dead_lately > limits.dead:
        lately = age(seen.at - limits.since)
        said = f"{several(seen.dead_lately, 'dead letter')} within {lately} (limit {limits.dead})"
    return Finding("dead", not said, seen.dead_lately, limits.dead, said)


def _refused(seen: Glance, limits: Limits) -> Finding:
    said = ""
    if seen.refused_at is not None and seen.refused_at >= limits.since:
        ago = age(max(seen.at - seen.refused_at, 0.0))
        said = f"events are lost: {seen.outbox.refused} refused in all, the last {ago} ago"
    return Finding("refused", not said, seen.outbox.refused, None, said)


def _paused(seen: Glance, limits: Limits) -> Finding:
    paused = [one for one in seen.outbox.destinations if one.active and one.state == "paused"]
    said = "; ".join(
        f"{plain(one.name)} has been paused for {age(seen.at - one.since)}: "
        f"{plain(one.reason)[:_REASON_CHARACTERS]}"
        for one in paused
    )
    return Finding("paused", not said, len(paused), None, said)


def _disk(seen: Glance, limits: Limits) -> Finding:
    said = ""
    if seen.free_bytes < limits.free_bytes:
        said = f"only {size(seen.free_bytes)} are free on the outbox's disk (limit {size(limits.free_bytes)})"
    return Finding("disk", not said, seen.free_bytes, limits.free_bytes, said)


def _damaged(seen: Glance, limits: Limits) -> Finding:
    count = len(seen.outbox.damaged)
    said = f"{several(count, 'damaged file')} set aside in {seen.folder}/damaged" if count else ""
    return Finding("damaged", not said, count, None, said)


CHECKS: dict[str, Callable[[Glance, Limits], Finding]] = {
    "relay": _relay,
    "refused": _refused,
    "disk": _disk,
    "damaged": _damaged,
    "paused": _paused,
    "dead": _dead,
    "age": _age,
    "pending": _pending,
}
"""Each by its name, the worst first."""


def findings(seen: Glance, limits: Limits, names: Iterable[str]) -> list[Finding]:
    """What the checks come to.

    Args:
        seen: the outbox.
        limits: what is still healthy.
        names: of the checks.
    """
    wanted = set(names)
    return [check(seen, limits) for name, check in CHECKS.items() if name in wanted]


def summary(seen: Glance) -> str:
    """How an outbox is that is well, in a few words.

    Args:
        seen: the outbox.
    """
    oldest = "" if seen.oldest_age is None else f", the oldest for {age(seen.oldest_age)}"
    relay = "no relay" if seen.relay is None else f"relay {seen.relay or 'starting'}"
    about = "about " if seen.outbox.estimated else ""
    return f"{about}{seen.pending} waiting{oldest}; {relay}; {size(seen.free_bytes)} free"
