"""What a forked worker of the pool has of the database that its owner is connected to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from probe import all_is_done, give, listener, listener_manager

FOUND = Path(os.environ["SCRIPT_RESULT"] + ".worker")


def look() -> dict[str, Any]:
    """Name the engine and the connection that this process uses, by what they are in its memory."""
    from airflow import settings
    from sqlalchemy import text

    with settings.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM dag_run")).scalar() == 3
        raw = connection.connection.dbapi_connection
        return {"pid": os.getpid(), "engine": id(settings.engine), "connection": id(raw)}


def write_down() -> None:
    """Look, in a worker."""
    FOUND.write_text(json.dumps(look()))


def main() -> None:
    from airflow import settings

    listener_manager()
    engine = settings.engine
    with engine.connect() as kept:  # is in use while the worker is forked
        owner = {"pid": os.getpid(), "engine": id(engine), "connection": id(kept.connection.dbapi_connection)}
        listener().submit_callable(write_down)
        all_is_done()
        give([owner, json.loads(FOUND.read_text())])


if __name__ == "__main__":
    main()
