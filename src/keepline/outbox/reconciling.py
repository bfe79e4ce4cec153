"""One reconciliation at a time for each outbox."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from keepline.errors import OutboxLocked
from keepline.outbox.files import OutboxFiles, try_lock, unavailable
from keepline.outbox.owned import OwnedFile

_NAME = "reconcile.lock"


@contextmanager
def reconciling(files: OutboxFiles) -> Iterator[None]:
    """Holds the lock of an outbox's reconciliation; it ends with the process, whatever ends that.

    Args:
        files: the outbox.

    Raises:
        OutboxLocked: another one is under way.
        OutboxUnavailable: the lock's file can't be opened.
    """
    path = files.folder / _NAME
    try:
        file = OwnedFile(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise unavailable("open", path, error) from error
    try:
        if not try_lock(file.fd):
            raise OutboxLocked(
                f"another reconciliation of {files.folder} is under way; wait for its end (`fuser {path}` "
                "tells which process it is)"
            )
        yield
    finally:
        file.close()
