"""What Airflow's metrics say of an outbox, its destinations, its relay and the listener's pool.

Every value is a gauge, the counts among them too: several schedulers may look at one outbox, and each says
the same of it, where counters would be added up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from keepline.outbox.status import DestinationStatus
from keepline.pool import Pool
from keepline.relay.glance import Glance

_PREFIX = "keepline"
_STATES = {"open": 0, "out": 1, "paused": 2}
_NOT_IN_A_TAG = re.compile(r"[^a-zA-Z0-9_.-]")
_NOT_IN_A_PART = re.compile(r"[^a-zA-Z0-9_-]")


class Gauge(NamedTuple):
    """One value.

    Args:
        name: what it is of; dotted.
        value: the value.
        destination: which one it is about; empty for none.
    """

    name: str
    value: float
    destination: str = ""


def of_outbox(seen: Glance) -> Iterator[Gauge]:
    """What was seen of an outbox, and of what waits to get there.

    Args:
        seen: at a glance.
    """
    active = [one for one in seen.outbox.destinations if one.active]
    yield Gauge("outbox.readable", 1)
    yield Gauge("outbox.pending", seen.pending)
    yield Gauge("outbox.waiting", seen.outbox.waiting)
    yield Gauge("outbox.oldest_age", seen.oldest_age or 0.0)
    yield Gauge("outbox.dead", sum(one.dead for one in active))
    yield Gauge("outbox.delivered", sum(one.delivered for one in active))
    yield Gauge("outbox.refused", seen.outbox.refused)
    yield Gauge("outbox.damaged", len(seen.outbox.damaged))
    yield Gauge("outbox.bytes", seen.outbox.bytes_on_disk)
    yield Gauge("outbox.free_bytes", seen.free_bytes)
    yield Gauge("relay.alive", 0 if seen.relay is None else 1)
    yield Gauge("pool.waiting", seen.calls or 0)
    yield Gauge("pool.set_aside", seen.set_aside or 0)
    for one in active:
        yield from _of_destination(one)


def _of_destination(one: DestinationStatus) -> Iterator[Gauge]:
    yield Gauge("destination.state", _STATES.get(one.state, 0), one.name)
    yield Gauge("destination.pending", one.pending, one.name)
    yield Gauge("destination.oldest_age", one.oldest_age or 0.0, one.name)
    yield Gauge("destination.delivered", one.delivered, one.name)
    yield Gauge("destination.dead", one.dead, one.name)


def of_no_outbox() -> Iterator[Gauge]:
    """What there is to say of an outbox that can't be looked at."""
    yield Gauge("outbox.readable", 0)


def of_pool(pool: Pool | None) -> Iterator[Gauge]:
    """What there is to say of the listener's pool without a look at its spool.

    Args:
        pool: the pool; ``None`` for one that nobody has needed yet.
    """
    yield Gauge("pool.workers", 0 if pool is None else len(pool.pids))
    yield Gauge("pool.refused", 0 if pool is None else pool.refused)


class Gauges:
    """Hands values to Airflow's metrics, by the names that these can carry.

    Args:
        send: Airflow's, for one value: takes the name, the value, and ``tags=``.
        tagged: whether tags arrive; a destination's name is the last part of the metric's name otherwise, as
            the pool's is in Airflow's own ``pool.open_slots.<pool>``.
    """

    def __init__(self, send: Callable[..., None], *, tagged: bool) -> None:
        self._send = send
        self._tagged = tagged
        self._last: set[tuple[str, str]] = set()

    def set(self, gauges: Iterable[Gauge]) -> None:
        """Set gauges; those of destinations that are gone since the last time are set to 0, once.

        Args:
            gauges: all that there are.
        """
        set_now = list(gauges)
        named = {(one.name, one.destination) for one in set_now if one.destination}
        if named:
            set_now += [Gauge(name, 0, destination) for name, destination in sorted(self._last - named)]
            self._last = named
        for one in set_now:
            name = f"{_PREFIX}.{one.name}"
            if not one.destination:
                self._send(name, one.value)
            elif self._tagged:
                tag = _NOT_IN_A_TAG.sub("_", one.destination)
                self._send(name, one.value, tags={"destination": tag})
            else:
                self._send(f"{name}.{_NOT_IN_A_PART.sub('_', one.destination)}", one.value)
