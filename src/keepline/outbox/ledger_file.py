"""The ledger as a file that is open for writing: its transactions, its damage, its space."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import apsw

from keepline.errors import OutboxDamaged
from keepline.outbox.bodies import Bodies
from keepline.outbox.files import OutboxFiles
from keepline.outbox.sqlite import LOG_BYTES, open_for_writing, translated
from keepline.outbox.transaction import transaction


class LedgerFile:
    """What :class:`keepline.outbox.ledger.Ledger` writes to, with the errors that it tells of.

    Args:
        files: the outbox.
        power: whether what was written outlives a power cut too; each transaction then waits for the disk.
        log_bytes: size at which its log is written back.

    Raises:
        OutboxUnavailable: the file can't be opened or written.
        OutboxLocked: another process holds it.
        OutboxDamaged: it isn't a ledger, or a newer one.
    """

    def __init__(self, files: OutboxFiles, *, power: bool = False, log_bytes: int = LOG_BYTES) -> None:
        self._files = files
        self._path = files.ledger
        self.bodies = Bodies(files)
        self.db: apsw.Connection = open_for_writing(files, power=power, log_bytes=log_bytes)

    def close(self) -> None:
        """Write the log back into the file, and close it."""
        self.bodies.close()
        with translated("close", self._path):
            self.db.close()

    def checkpoint(self) -> None:
        """Write the log back into the file, through to the disk."""
        with self.using("write"):
            self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def shrink(self) -> None:
        """Write the log back, and give the disk what it has grown to."""
        # Waits for readers, which are done soon, and lets it be where they aren't.
        with self.using("write"), suppress(apsw.BusyError):
            self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    @contextmanager
    def using(self, operation: str) -> Iterator[None]:
        """Errors of SQLite inside it become Keepline's, and damage is left to the next relay to repair.

        Whoever reads or writes the ledger does it inside of this: damage that leaves no word for the next
        relay ends that one at the same place.

        Args:
            operation: what is tried, in words.
        """
        try:
            with translated(operation, self._path):
                yield
        except OutboxDamaged as error:
            # Tables that aren't ours show at every opening.
            if not isinstance(error.__cause__, apsw.SQLError):
                with suppress(OSError):
                    self._files.suspect.write_text(f"{error}\n")
            raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written inside it is written together or not at all."""
        with self.using("write"), transaction(self.db):
            yield


def whole(found: object) -> int:
    """What a ledger that may be damaged says in place of a number; 0 where it says nothing.

    Args:
        found: in its row.

    Raises:
        OutboxDamaged: it is something else.
    """
    if found is None:
        return 0
    if type(found) is not int:
        raise OutboxDamaged(f"the ledger says {found!r:.40} in place of a number; the next relay repairs it")
    return found
