"""Which runs have begun and ended, as far as an outbox knows, for who compares it with something else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import apsw

from keepline.outbox.files import OutboxFiles
from keepline.outbox.snapshot import snapshot

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_TOGETHER = 10_000

# One row a run; a number says where in the order of appending its last START and its last end stand.
_RUNS = """
SELECT run_key, max(CASE event_type WHEN 'START' THEN id ELSE 0 END),
    max(CASE WHEN event_type IN ('COMPLETE', 'FAIL', 'ABORT') THEN id ELSE 0 END)
FROM known WHERE appended_at >= ? AND run_key <> ''
    AND event_type IN ('START', 'COMPLETE', 'FAIL', 'ABORT') GROUP BY run_key
"""
# The ids of events rise by one: behind the last gap nothing has been forgotten.
_AFTER_THE_LAST_GAP = """
SELECT id FROM main.event AS one
WHERE NOT EXISTS (SELECT 1 FROM main.event WHERE id = one.id - 1) ORDER BY id DESC LIMIT 1
"""


@dataclass(frozen=True)
class Reach:
    """How far back an outbox knows every event that was appended.

    Args:
        since: s since 1970; ``None`` where nothing was ever appended.
        forgotten: whether there was something before that, which was let go of.
    """

    since: float | None
    forgotten: bool


def reach(files: OutboxFiles) -> Reach:
    """Ask how far back an outbox knows everything.

    Args:
        files: the outbox.

    Raises:
        OutboxError: it can't be read.
    """
    with snapshot(files, with_journal=True) as db:
        first = db.execute(_AFTER_THE_LAST_GAP).get
        if first is not None:
            at = db.execute("SELECT appended_at FROM main.event WHERE id = ?", (first,)).get
            return Reach(int(at or 0) / 1e9, int(first) > 1)
        forgotten = bool(db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").get)
        if forgotten:
            # What was forgotten had come to its end by the last answer, so it was appended before.
            ended = db.execute("SELECT max(last_answer_at) FROM destination").get
            if ended is not None:
                return Reach(float(ended), True)
        at = db.execute("SELECT appended_at FROM temp.waiting ORDER BY id LIMIT 1").get
        return Reach(None if at is None else int(at) / 1e9, forgotten)


class Known(NamedTuple):
    """What an outbox knows of a run.

    Args:
        start: where in the order of appending its last START stands; 0 when there is none.
        end: where its last COMPLETE, FAIL or ABORT does.
    """

    start: int = 0
    end: int = 0


class KnownRuns:
    """The runs that an outbox knows of at one instant; a ``with`` block's, in a temporary file.

    Neither the relay nor anybody who appends is held up by it.

    Args:
        files: the outbox.
        since: only events appended since, s since 1970.

    Raises:
        OutboxError: the outbox can't be read.
    """

    def __init__(self, files: OutboxFiles, since: float) -> None:
        # Without a name: SQLite keeps it in memory while it is small, and else in a file that nobody sees.
        self._found = apsw.Connection("")
        try:
            self._found.execute(
                "CREATE TABLE run (key TEXT PRIMARY KEY, start INTEGER, end INTEGER) WITHOUT ROWID"
            )
            with snapshot(files, with_journal=True) as db, self._found:
                rows = cast("Iterator[tuple[str, int, int]]", db.execute(_RUNS, (int(since * 1e9),)))
                self._found.executemany("INSERT INTO run VALUES (?, ?, ?)", rows)
        except BaseException:
            self._found.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._found.close()

    def of(self, keys: Iterable[str]) -> dict[str, Known]:
        """What is known of some runs; those that aren't known at all are missing.

        Args:
            keys: their run keys.
        """
        listed = list(keys)
        known: dict[str, Known] = {}
        for begin in range(0, len(listed), _TOGETHER):
            rows = self._found.execute(
                "SELECT key, start, end FROM run WHERE key IN (SELECT value FROM json_each(?))",
                (json.dumps(listed[begin : begin + _TOGETHER]),),
            )
            known.update(
                (key, Known(start, end)) for key, start, end in cast("Iterator[tuple[str, int, int]]", rows)
            )
        return known
