"""How often a run's last event is held back by a look at the database, and until when."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta, timezone

from probe import give

DAG = "lineage"


def wait(run_id: str, *, method: str = "dag_failed", ago: float = 0.0) -> None:
    """Wait for the end of a run, which has failed."""
    from keepline.airflow import settled

    ended = datetime.now(timezone.utc) - timedelta(seconds=ago)
    kwargs = {"dag_id": DAG, "run_id": run_id, "dag_run_state": "failed", "end_date": ended}
    settled.wait(None, (method,), kwargs)


def main() -> None:
    from airflow.utils.session import create_session
    from sqlalchemy import text

    from keepline.airflow import settled

    found: dict[str, object] = {}
    looks: list[object] = []
    look = settled._committed

    def counted(dag_id: object, run_id: object) -> str | None:
        looks.append(run_id)
        return look(dag_id, run_id)

    settled._committed = counted
    settled._MOST_SECONDS = 60.0  # a busy machine may take its time
    over = threading.Event()

    def worker() -> None:
        wait("run-0000")
        over.set()

    update = text("UPDATE dag_run SET state = :state WHERE run_id = 'run-0000'")
    with create_session() as session:
        session.execute(update, {"state": "failed"})
        thread = threading.Thread(target=worker)
        thread.start()
        while len(looks) < 3:
            time.sleep(0.01)
        found["over before the commit"] = over.is_set()
        session.commit()
    thread.join()
    found["over after the commit"] = over.is_set()
    with create_session() as session:  # as it was, for others
        session.execute(update, {"state": "queued"})

    settled._MOST_SECONDS = 1.0
    for what, (run_id, options) in {
        "never committed": ("run-0001", {}),
        "long ago": ("run-0001", {"ago": 60}),
        "no such run": ("no-such-run", {}),
        "another event": ("run-0001", {"method": "dag_started"}),
    }.items():
        looks.clear()
        began = time.monotonic()
        wait(run_id, **options)
        found[what] = [len(looks), time.monotonic() - began]
    give(found)


if __name__ == "__main__":
    main()
