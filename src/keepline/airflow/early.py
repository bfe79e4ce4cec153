"""A pool worker for a scheduler on SQLite, forked before the scheduler has its database open.

Later, the hook that needs the first worker runs in the middle of a transaction. SQLite can't be carried
over a fork: with what a child has inherited of an open database, it may read stale pages of it for ever, or
find it "malformed", and many a provider doesn't emit an event of which it can't read all.
Source: "How To Corrupt An SQLite Database File", 2.6, sqlite.org.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import conf

from keepline.pool import Pool


def have_worker(pool: Pool) -> None:
    """Have a pool fork its worker now, where the database is SQLite.

    Args:
        pool: the listener's.

    Raises:
        PoolError: it can't be started.
    """
    if conf.get("database", "sql_alchemy_conn", fallback="").startswith("sqlite"):
        pool.submit("run", nothing, (), {})


def nothing() -> None:
    """Be called by a worker, for it to be there."""
