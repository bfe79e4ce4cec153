"""What a scheduler's pool worker reads of a database that the scheduler had open at its first event."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from pathlib import Path

from probe import argument, give, listener, listener_manager

FOUND = Path(os.environ["SCRIPT_RESULT"] + ".worker")


def count() -> None:
    """Count the runs, in a worker."""
    from airflow import settings
    from sqlalchemy import text

    try:
        with settings.engine.connect() as connection:
            found = str(connection.execute(text("SELECT count(*) FROM growing")).scalar())
    except Exception as error:
        found = repr(error)
    FOUND.with_suffix(".new").write_text(found)
    FOUND.with_suffix(".new").rename(FOUND)


def counted() -> str:
    listener().submit_callable(count)
    deadline = time.monotonic() + 60
    while not FOUND.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    found = FOUND.read_text()
    FOUND.unlink()
    return found


def main() -> None:
    from airflow.jobs.job import Job

    database = argument(1)

    def opened() -> sqlite3.Connection:
        connection = sqlite3.connect(database)
        connection.execute("PRAGMA journal_mode = WAL")  # as Airflow 3 does
        return connection

    sys.argv = ["airflow", "scheduler"]
    listener_manager()
    Job()
    kept = opened()
    kept.execute("CREATE TABLE growing (text)")
    found = [counted()]
    kept.close()
    for _ in range(100):
        with opened() as one:
            one.execute("INSERT INTO growing VALUES (zeroblob(30000))")
        one.close()
    give([*found, counted()])


if __name__ == "__main__":
    main()
