"""How many appends were refused: the losses that ``keepline status`` shows.

The count is overwritten in place in a file of fixed size, which succeeds on a full disk too. It is kept on a
best-effort basis: where the outbox can't be written at all, nothing is counted.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress

from keepline.errors import OutboxError
from keepline.outbox.files import OutboxFiles
from keepline.outbox.owned import OwnedFile, held

_COUNT = struct.Struct("<Q")
_LOCK_SECONDS = 0.1


def count(files: OutboxFiles) -> None:
    """Add one."""
    with suppress(OSError, OutboxError):
        if not files.folder.exists():
            files.create()  # The first event of all may be refused for its size.
        with held(files.refused, _LOCK_SECONDS) as file:
            os.pwrite(file.fd, _COUNT.pack(_read(file.fd) + 1), 0)


def prepare(files: OutboxFiles) -> None:
    """Make the file while there is room for it."""
    with suppress(OSError, OutboxError):
        if not files.refused.exists() or not files.refused.stat().st_size:
            with held(files.refused, _LOCK_SECONDS) as file:
                os.pwrite(file.fd, _COUNT.pack(_read(file.fd)), 0)


def total(files: OutboxFiles) -> int:
    """How many appends this outbox has refused."""
    try:
        file = OwnedFile(files.refused, os.O_RDONLY)
    except OSError:
        return 0
    try:
        return _read(file.fd)
    finally:
        file.close()


def last(files: OutboxFiles) -> float | None:
    """When this outbox has refused an append for the last time, s since 1970; ``None`` for never."""
    # Nothing else writes to the file, but for what prepare() does where the count is 0.
    try:
        return files.refused.stat().st_mtime if total(files) else None
    except OSError:
        return None


def _read(fd: int) -> int:
    data = os.pread(fd, _COUNT.size, 0)
    return int(_COUNT.unpack(data)[0]) if len(data) == _COUNT.size else 0
