"""The ledger's file: how it is opened, and SQLite's errors in Keepline's words.

It goes through apsw, which carries a current SQLite of its own: versions 3.7.0 to 3.51.2 can damage a
database in WAL mode (https://www.sqlite.org/wal.html, "The WAL-Reset Bug").
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw

from keepline.errors import OutboxDamaged, OutboxLocked, OutboxUnavailable
from keepline.outbox.files import OutboxFiles, open_private, unavailable
from keepline.outbox.schema import migrate, version
from keepline.outbox.transaction import transaction

_OLDEST_SQLITE = (3, 51, 3)
_BUSY_MS = 2000
LOG_BYTES = 16 * 1024 * 1024
"""How large the ledger's log becomes before it is written back. Nothing of it can be pruned."""
_PAGE_BYTES = 4096
_MAGIC = b"SQLite format 3\0"
_PAGE_SIZE = (4096).to_bytes(2, "big")


def open_for_writing(
    files: OutboxFiles, *, power: bool = False, log_bytes: int = LOG_BYTES
) -> apsw.Connection:
    """Open the ledger, with today's schema; make it where there is none.

    Args:
        files: the outbox.
        power: whether what was written outlives a power cut too; each transaction then waits for the disk.
        log_bytes: size at which its log is written back.

    Raises:
        OutboxUnavailable: the file can't be opened or written, or apsw brings an SQLite that could damage it.
        OutboxLocked: another process holds it.
        OutboxDamaged: it isn't a ledger, or a newer one.
    """
    sqlite = apsw.sqlite_lib_version()
    if tuple(int(part) for part in sqlite.split(".")) < _OLDEST_SQLITE:
        raise OutboxUnavailable(
            f"can't open the ledger {files.ledger}: apsw brings SQLite {sqlite}, which could damage it; "
            "install apsw 3.51.3 or later"
        )
    files.create()
    with translated("open", files.ledger):
        _create_private(files.ledger)
        connection = apsw.Connection(str(files.ledger))
        try:
            _see_header(connection)
            connection.set_busy_timeout(_BUSY_MS)
            # Only a file without tables takes this up; it lets pruning give space back to the disk.
            connection.pragma("auto_vacuum", "incremental")
            connection.pragma("journal_mode", "wal")
            connection.pragma("synchronous", "full" if power else "normal")
            connection.pragma("wal_autocheckpoint", max(log_bytes // _PAGE_BYTES, 1))
            connection.pragma("journal_size_limit", log_bytes)
            migrate(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _create_private(path: Path) -> None:
    # Only a file that nobody can have open yet may be opened and closed by anyone but SQLite: the close would
    # end every lock that SQLite has on it in this process (https://www.sqlite.org/howtocorrupt.html, 2.2).
    with suppress(FileExistsError):
        os.close(open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))


def _see_header(connection: apsw.Connection) -> None:
    # For what SQLite takes for a file that may not be written, or for one of another make.
    _, header = connection.read("main", 0, 0, 100)
    made_here = header[:16] == _MAGIC and header[16:18] == _PAGE_SIZE and {*header[18:20]} <= {1, 2}
    if any(header) and not made_here:
        raise apsw.NotADBError("its header isn't that of a ledger")


# One row when a delivery to an active destination waits: a look into the index of pending deliveries.
SOMETHING_PENDING = (
    "SELECT 1 FROM destination WHERE active = 1 AND EXISTS "
    "(SELECT 1 FROM delivery WHERE destination = destination.id AND state = 0)"
)


@contextmanager
def reading(files: OutboxFiles) -> Iterator[apsw.Connection | None]:
    """The ledger, open for reading, as it is at one instant; it neither waits for the relay nor holds it up.

    Args:
        files: the outbox.

    Returns:
        the connection; ``None`` where no relay has made a ledger yet.

    Raises:
        OutboxUnavailable: it can't be read.
        OutboxLocked: another process holds it.
        OutboxDamaged: it isn't a ledger, or a newer one.
    """
    if not _exists(files.ledger):
        yield None
        return
    with translated("read", files.ledger):
        connection = apsw.Connection(str(files.ledger), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.set_busy_timeout(_BUSY_MS)
            with transaction(connection):
                yield connection if version(connection) else None
        finally:
            connection.close()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise unavailable("read the ledger", path, error) from error


_REMEDIES: dict[type[apsw.Error], str] = {
    apsw.FullError: "free some space on that disk",
    apsw.ReadOnlyError: "let this user write it, on a writable disk",
    apsw.CantOpenError: "let this user read and write it and its folder",
    apsw.PermissionsError: "let this user read and write it and its folder",
}


# That tables, keys or texts aren't as we write them is damage too; a full disk and a failing one aren't.
_DAMAGE = (
    apsw.NotADBError,
    apsw.CorruptError,
    apsw.SQLError,
    apsw.ConstraintError,
    apsw.MismatchError,
    apsw.TooBigError,
    apsw.RangeError,
    UnicodeDecodeError,
)


@contextmanager
def translated(operation: str, path: Path) -> Iterator[None]:
    """Turns SQLite's errors into Keepline's.

    Args:
        operation: what is tried, in words.
        path: the ledger.
    """
    try:
        yield
    except _DAMAGE as error:
        raise _damaged(operation, path, error) from error
    except apsw.BusyError as error:
        raise OutboxLocked(
            f"can't {operation} the ledger {path}: another process holds it ({error}); "
            "see with `fuser` which one, and end it"
        ) from error
    except apsw.Error as error:
        if getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHORT_READ:
            raise _damaged(operation, path, error) from error  # Somebody has cut the file off.
        remedy = _REMEDIES.get(type(error), "see whether `outbox` names a healthy local disk")
        raise OutboxUnavailable(f"can't {operation} the ledger {path}: {error}; {remedy}") from error
    except OSError as error:
        raise unavailable(f"{operation} the ledger", path, error) from error


def _damaged(operation: str, path: Path, error: Exception) -> OutboxDamaged:
    return OutboxDamaged(
        f"can't {operation} the ledger {path}: {error}; the next relay sets it aside and saves what can be "
        "read of it: run `keepline flush` or `keepline relay`"
    )
