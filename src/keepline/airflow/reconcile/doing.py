"""A reconciliation from beginning to end, for the command and for a scheduler that starts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from keepline.airflow import configuration
from keepline.airflow.reconcile import database
from keepline.airflow.reconcile.emitting import Emitter
from keepline.airflow.reconcile.range import GRACE, window_for
from keepline.airflow.reconcile.report import Report
from keepline.airflow.reconcile.under_way import under_way
from keepline.airflow.reconcile.work import Work
from keepline.errors import OutboxUnavailable, ReconcileError
from keepline.outbox.files import OutboxFiles
from keepline.outbox.known import KnownRuns, reach
from keepline.outbox.reconciling import reconciling

# Seconds: a task tells of its end a little before that gets into Airflow's database.
_BEFORE = 600.0
_TALKATIVE = ("airflow.providers.openlineage", "openlineage.client")


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Args:
        since: s since 1970: only events that were due since; ``None`` for all that the outbox knows.
        until: s since 1970: only those that were due before.
        dags: only of these DAGs; of all where it is empty.
        dry_run: only say what is missing.
        grace: seconds that an event may take from its hook to the outbox.
    """

    since: float | None = None
    until: float | None = None
    dags: tuple[str, ...] = ()
    dry_run: bool = False
    grace: float = GRACE


def find_outbox(*, may_come: bool = False) -> OutboxFiles:
    """The outbox of this environment's Airflow.

    Args:
        may_come: whether one that isn't there yet will do.

    Raises:
        ReconcileError: OpenLineage or Keepline is switched off here, or the transport isn't Keepline's.
        OutboxUnavailable: there is none yet.
        Exception: what the provider or the client raises for a configuration that can't be read.
    """
    if not configuration.is_enabled():
        raise ReconcileError(
            "OpenLineage is switched off in this environment (`[openlineage] disabled`, no transport, or "
            "`[keepline] disabled`), so nothing is missing; run this where the scheduler's settings are"
        )
    settings = configuration.settings()
    if settings is None:
        raise ReconcileError(
            "OpenLineage's transport here isn't `keepline.Transport`: there is no outbox to compare with; "
            "name it in `[openlineage] transport`, or run this where the scheduler's settings are"
        )
    files = OutboxFiles(settings.outbox)
    if may_come:
        return files
    with suppress(OSError):  # Whoever reads it says what is wrong.
        if not files.folder.exists():
            raise OutboxUnavailable(
                f"there is no outbox at {files.folder}; run this on the scheduler's host, with its settings"
            )
    return files


def reconcile(
    files: OutboxFiles,
    request: Request,
    *,
    total: Callable[[int], None],
    done: Callable[[int], None],
    stop: Callable[[], bool],
    now: float | None = None,
) -> Report:
    """Compare Airflow's database with an outbox, and emit what is missing.

    Args:
        files: the outbox, which is the configured one.
        request: what is asked for.
        total: called with the number of DAG runs to look at.
        done: called with the number of those looked at since the last call.
        stop: whether to end early.
        now: s since 1970, for what counts as being still on its way.

    Raises:
        ReconcileError: it can't be done as asked.
        OutboxLocked: another one is under way.
        OutboxError: the outbox can't be read or appended to.
    """
    with reconciling(files), _quiet():
        window = window_for(reach(files), request.since, request.until, now or time.time(), request.grace)
        report = Report(request.dry_run, window.since, window.until)
        emitter = Emitter()
        try:
            # Before the outbox is looked at, where they go.
            waiting = under_way(configuration.spool_folder())
            with KnownRuns(files, window.since - _BEFORE) as known, database.reading() as session:
                work = Work(session, known, window, waiting, request.dags, emitter, report)
                total(work.count())
                work.run(done=done, stop=stop)
        finally:
            emitter.close()
    return report


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the provider from telling of each event."""
    before = {name: logging.getLogger(name).level for name in _TALKATIVE}
    for name in before:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
