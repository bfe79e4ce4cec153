"""One transaction of SQLite, whose end never hides why it failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import apsw


@contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """What is done inside it is done together or not at all; inside another, it is part of that one.

    Not the connection's own context: where a full disk has ended the transaction already, that fails in its
    turn, with an error that speaks of no disk.

    Args:
        connection: open.
    """
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(apsw.Error):
            connection.execute("ROLLBACK")
        raise
