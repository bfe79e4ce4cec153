"""Events that hooks have handed to the listener's pool, and that aren't in the outbox yet."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter

from keepline.errors import ReconcileError
from keepline.pool.unread import unread


def under_way(spools: Path) -> frozenset[str]:
    """The OpenLineage run ids of the events that wait in the spools.

    To be asked before the outbox is: what a worker has done meanwhile is there.

    Args:
        spools: their folder.

    Raises:
        ReconcileError: they can't be read.
    """
    try:
        return frozenset(run_id for call in unread(spools) if (run_id := _run_of(call.arguments)) is not None)
    except OSError as error:
        raise ReconcileError(f"can't read what waits in {spools}: {error.strerror or error}") from error


def _run_of(arguments: bytes) -> str | None:
    """Of which run the event is that a call of the listener builds; ``None`` where that can't be told."""
    try:
        # Written by this user's schedulers, in files that nobody else can write.
        (_, _, told), _ = pickle.loads(arguments)  # noqa: S301
        return _run_id(told)
    except Exception:
        return (
            None  # Another version has written it, or its pickling was never sound; a worker sets it aside.
        )


def _run_id(told: dict[str, Any]) -> str:
    if "clear_number" in told:
        return str(
            OpenLineageAdapter.build_dag_run_id(
                dag_id=told["dag_id"],
                logical_date=told["logical_date"],
                clear_number=told["clear_number"],
            )
        )
    return str(told["run_id"])
