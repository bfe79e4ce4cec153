"""Which stretch of time can be reconciled, and is."""

from __future__ import annotations

from datetime import datetime

from keepline.airflow.reconcile.deciding import Window
from keepline.errors import ReconcileError
from keepline.outbox.known import Reach

GRACE = 60.0
"""Seconds that an event may take from its hook to the outbox until it counts as missing."""


def window_for(
    reach: Reach, since: float | None, until: float | None, now: float, grace: float = GRACE
) -> Window:
    """What to look at.

    Args:
        reach: how far back the outbox knows everything.
        since: as asked for, s since 1970; ``None`` for all that the outbox knows.
        until: as asked for; ``None`` for up to now.
        now: s since 1970.
        grace: seconds that an event may take from its hook to the outbox.

    Raises:
        ReconcileError: the outbox doesn't know enough for that.
    """
    settled = now - grace
    if since is None:
        if reach.since is None:
            raise ReconcileError("the outbox has had no event yet; say with --from since when it should have")
        since = reach.since
    elif reach.forgotten and reach.since is not None and since < reach.since:
        at = datetime.fromtimestamp(reach.since).astimezone().isoformat(timespec="seconds")
        raise ReconcileError(
            f"the outbox has forgotten events that were appended before {at}, so what is missing before that "
            "can't be told; begin there or later (--from), and raise `retention` (or `max_bytes`, if room is "
            "short) in the transport's configuration, to have it remember longer"
        )
    return Window(since, settled if until is None else min(until, settled), settled)
