"""The events that benchmarks deliver: a START and a COMPLETE of each run, 32 runs under way at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import attr
from openlineage.client.event_v2 import Run, RunEvent, RunState
from serialise import RUN_ID
from serialise import events as templates

from keepline.event import Event

AT_A_TIME = 32


def _of_runs(many: int) -> Iterator[tuple[RunState, str]]:
    for number in range(many):
        block, place = divmod(number, 2 * AT_A_TIME)
        run = block * AT_A_TIME + place % AT_A_TIME
        state = RunState.START if place < AT_A_TIME else RunState.COMPLETE
        yield state, f"0190a0b1-0000-7000-9000-{run:012x}"


def events(many: int) -> Iterator[RunEvent]:
    """As the client's users make them."""
    base = templates()["task start"]
    for state, run_id in _of_runs(many):
        yield attr.evolve(base, eventType=state, run=Run(run_id, base.run.facets))


def ready(many: int, size: int | None = None) -> Iterator[Event]:
    """The same as bytes, for benchmarks of which serialising is no part.

    Args:
        many: how many.
        size: of a body, bytes, where it has to be another: such a body is no event, only as long as one.
    """
    base = templates()["task start"]
    kinds = {}
    for state in (RunState.START, RunState.COMPLETE):
        made = Event.from_openlineage(attr.evolve(base, eventType=state))
        if size is not None:
            made = replace(made, body=b'{"run": {"runId": "%s"}}' % RUN_ID.encode())
            made = replace(made, body=made.body.ljust(size))
        kinds[state] = made
    for state, run_id in _of_runs(many):
        one = kinds[state]
        yield replace(one, body=one.body.replace(RUN_ID.encode(), run_id.encode()), run_key=run_id)


def size() -> int:
    """Of a body, bytes."""
    return len(next(ready(1)).body)
