"""How many appends were refused: the losses that ``keepline status`` shows.

The count is overwritten in place in a file of fixed size, which succeeds on a full disk too.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress

from keepline.outbox.files import OutboxFiles, open_private, try_lock

_COUNT = struct.Struct("<Q")


def count(files: OutboxFiles) -> None:
    """Add one. Best effort: where the outbox can't be written at all, nothing is counted."""
    with suppress(OSError):
        fd = open_private(files.refused, os.O_RDWR | os.O_CREAT)
        try:
            if try_lock(fd):
                os.pwrite(fd, _COUNT.pack(_read(fd) + 1), 0)
        finally:
            os.close(fd)


def prepare(files: OutboxFiles) -> None:
    """Make the file while there is room for it."""
    with suppress(OSError):
        fd = open_private(files.refused, os.O_RDWR | os.O_CREAT)
        try:
            if os.fstat(fd).st_size < _COUNT.size:
                os.pwrite(fd, _COUNT.pack(0), 0)
        finally:
            os.close(fd)


def total(files: OutboxFiles) -> int:
    """How many appends this outbox has refused."""
    try:
        fd = open_private(files.refused, os.O_RDONLY)
    except OSError:
        return 0
    try:
        return _read(fd)
    finally:
        os.close(fd)


def _read(fd: int) -> int:
    data = os.pread(fd, _COUNT.size, 0)
    return int(_COUNT.unpack(data)[0]) if len(data) == _COUNT.size else 0
