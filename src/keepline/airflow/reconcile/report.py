"""What a reconciliation has found and done."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from keepline.airflow.reconcile.deciding import Decision

_EXAMPLES = 20


@dataclass
class Report:
    """The figures, by DAG where it says so.

    Args:
        dry_run: whether nothing was emitted.
        since: s since 1970.
        until: s since 1970.
        dag_runs: DAG runs that were looked at.
        tries: tries of tasks that were looked at.
        missing: events that the outbox didn't have, by DAG and type.
        emitted: events that were emitted, or would be.
        repeated: of these, those that the outbox had already.
        runs: OpenLineage runs they are of.
        under_way: OpenLineage runs left alone since something of them waits in the pool's spool.
        gone: tries whose task is in no DAG of the database any more; nothing is emitted of them.
        failed: events that could not be built.
        failures: of some of them, which and why.
    """

    dry_run: bool
    since: float
    until: float
    dag_runs: int = 0
    tries: int = 0
    missing: Counter[tuple[str, str]] = field(default_factory=Counter)
    emitted: int = 0
    repeated: int = 0
    runs: int = 0
    under_way: int = 0
    gone: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)

    def decided(self, dag_id: str, decision: Decision) -> None:
        """Count what is missing of a run."""
        self.runs += 1
        self.missing.update((dag_id, kind.value) for kind in decision.missing)

    def could_not(self, what: str, error: Exception) -> None:
        """Count an event that couldn't be built."""
        self.failed += 1
        if len(self.failures) < _EXAMPLES:
            self.failures.append(f"{what}: {' '.join(str(error).split()) or type(error).__name__}")

    def by_type(self) -> Counter[str]:
        """What is missing, by type."""
        found: Counter[str] = Counter()
        for (_, kind), count in self.missing.items():
            found[kind] += count
        return found

    def document(self) -> dict[str, Any]:
        """All of it, for programs."""
        dags: dict[str, dict[str, int]] = {}
        for (dag_id, kind), count in sorted(self.missing.items()):
            dags.setdefault(dag_id, {})[kind] = count
        return {
            "dry_run": self.dry_run,
            "from": self.since,
            "to": self.until,
            "dag_runs": self.dag_runs,
            "tries": self.tries,
            "missing": dict(self.by_type()),
            "dags": dags,
            "runs": self.runs,
            "emitted": self.emitted,
            "repeated": self.repeated,
            "under_way": self.under_way,
            "gone": self.gone,
            "failed": self.failed,
            "failures": self.failures,
        }
