"""Runs, as their events tell of them, for those who ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from keepline.outbox.files import OutboxFiles
from keepline.outbox.snapshot import snapshot

# Event types that end a run.
_ENDS = "('COMPLETE', 'FAIL', 'ABORT')"

# One row a run. SQLite sorts by the run key, in its temporary files where there is much to sort.
_RUNS = (
    "SELECT min(id) AS first, max(id) AS last, count(*) AS events, max(appended_at) AS last_at, "  # noqa: S608
    f"max(event_type = 'START') AS started, max(event_type IN {_ENDS}) AS ended "
    "FROM known WHERE event_type <> '' AND run_key <> '' {condition} GROUP BY run_key"
)


@dataclass(frozen=True)
class RunSummary:
    """What the outbox knows of a run.

    Args:
        run: its run key.
        job_namespace: of its job, as its last event says it.
        job_name: of its job.
        events: how many the outbox knows of.
        first_at: s since 1970: when the first of them was appended.
        last_at: s since 1970: when the last was.
        last_type: its event type.
        open: whether there is a START and no COMPLETE, FAIL or ABORT.
    """

    run: str
    job_namespace: str
    job_name: str
    events: int
    first_at: float
    last_at: float
    last_type: str
    open: bool


@dataclass(frozen=True)
class Runs:
    """An answer.

    Args:
        runs: those that were asked for.
        total: how many there are, also beyond the limit.
        known_since: s since 1970: when the oldest event was appended that the outbox knows of.
    """

    runs: tuple[RunSummary, ...]
    total: int
    known_since: float | None


def list_runs(
    files: OutboxFiles, *, job: str | None, since: float | None, only_open: bool, limit: int
) -> Runs:
    """The runs that the outbox knows of, those with the latest event first; open ones, the oldest first.

    Args:
        files: the outbox.
        job: only of this job, ``name`` or ``namespace/name``.
        since: only with an event appended since, s since 1970.
        only_open: only those with a START and no terminal event.
        limit: most to give.

    Raises:
        OutboxError: the outbox can't be read.
    """
    condition = ""
    values: dict[str, object] = {}
    if job is not None:
        condition = "AND (job_name = :job OR job_namespace || '/' || job_name = :job)"
        values["job"] = job
    having = []
    if since is not None:
        having.append("last_at >= :since")
        values["since"] = int(since * 1e9)
    if only_open:
        having.append("started AND NOT ended")
    grouped = _RUNS.format(condition=condition) + (f" HAVING {' AND '.join(having)}" if having else "")
    with snapshot(files, with_journal=True) as db:
        db.execute(f"CREATE TEMP TABLE found AS {grouped}", values)
        total = int(db.execute("SELECT count(*) FROM temp.found").get)
        order = "first" if only_open else "last DESC"
        rows = db.execute(
            "SELECT last.run_key, last.job_namespace, last.job_name, events, first.appended_at, "  # noqa: S608
            "last.appended_at, last.event_type, started AND NOT ended "
            f"FROM (SELECT * FROM temp.found ORDER BY {order} LIMIT ?) AS found "
            "JOIN known AS first ON first.id = found.first JOIN known AS last ON last.id = found.last "
            f"ORDER BY found.{order}",
            (limit,),
        ).fetchall()
        oldest = db.execute("SELECT appended_at FROM known ORDER BY id LIMIT 1").get
    summaries = (
        RunSummary(run, namespace, name, events, first_at / 1e9, last_at / 1e9, last_type, bool(is_open))
        for run, namespace, name, events, first_at, last_at, last_type, is_open in cast(
            "list[tuple[str, str, str, int, int, int, str, int]]", rows
        )
    )
    return Runs(tuple(summaries), total, None if oldest is None else oldest / 1e9)
