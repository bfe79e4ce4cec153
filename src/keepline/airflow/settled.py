"""Waiting until Airflow's database has what a run's last event is going to tell.

The event's facet ``airflowState`` has the states of the run's tasks, which the provider reads from the
database when it builds the event, in the worker. But Airflow calls the hook before it commits: a quick worker
would read states from before the end, of tasks that run no more. The provider's own pool is often slow enough
to read them afterwards; ours isn't, and waits for the commit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

log = logging.getLogger(__name__)

_MOST_SECONDS = 3.0
_LOOK_EVERY = 0.02  # seconds; nobody tells another process of a commit
_LAST_EVENTS = ("dag_success", "dag_failed")


def wait(function: object, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """Wait until a run that has ended is committed as such, or 3 s after its end, whatever comes first.

    Counted from the run's end, so that events that have waited wait no more; not at all for other events, or
    where the database can't be asked, or knows no such run.

    Args:
        function: that the event is about to be emitted by: the name of a method of the adapter, with what
            stands before it, or from provider 2.20 on of a function whose first argument is such a name.
        args: its arguments.
        kwargs: its keyword arguments.
    """
    of_adapter = str(function).rpartition(".")[2]
    if of_adapter not in _LAST_EVENTS and next(iter(args), None) not in _LAST_EVENTS:
        return
    try:
        ended, state = kwargs["end_date"], str(kwargs["dag_run_state"])
        if not isinstance(ended, datetime):
            return
        patience = min(ended.timestamp() + _MOST_SECONDS - time.time(), _MOST_SECONDS)
        deadline = time.monotonic() + patience
        while _committed(kwargs["dag_id"], kwargs["run_id"]) not in (None, state):
            if time.monotonic() > deadline:
                return
            time.sleep(_LOOK_EVERY)
    except Exception:  # the event is emitted even so, as it would be without this
        log.debug("It can't be told whether the end of a run is committed", exc_info=True)


def _committed(dag_id: object, run_id: object) -> str | None:
    """The state of a run in the database; ``None`` when there is no such run, or it has no state."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        state = session.query(DagRun.state).filter(DagRun.dag_id == dag_id, DagRun.run_id == run_id).scalar()
    return None if state is None else str(state)
