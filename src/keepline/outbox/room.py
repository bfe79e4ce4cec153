"""How much of the disk an outbox takes up, and whether it may take more.

``max_bytes`` bounds the journal, its archive and the ledger together. A producer looks where it creates a
segment, never at each append: what is there and one more segment must fit. So an outbox can exceed its bound
by the last event of a segment, and by what the ledger grows meanwhile. The relay makes room by deleting what
has been delivered; what hasn't, nobody drops for room. It may be asleep because all was: who finds no room
wakes it, by writing to a file of the folder that it watches.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from keepline.errors import OutboxUnavailable
from keepline.outbox.files import OutboxFiles, open_private, unavailable

_SEGMENTS = 8
_LOOK_EVERY = 1.0
_FULL = "full"


def bytes_used(files: OutboxFiles) -> int:
    """What journal, archive and ledger take up, bytes.

    Args:
        files: the outbox.

    Raises:
        OutboxUnavailable: a folder can't be read; a missing one takes up nothing.
    """
    # In this order and by name, so that a segment that moves to the archive meanwhile counts once.
    segments = {**_sizes(files.journal), **_sizes(files.archive)}
    return sum(segments.values()) + sum(_sizes(files.folder, files.ledger.name).values())


def _sizes(folder: Path, prefix: str = "") -> dict[str, int]:
    sizes = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(prefix):
                    try:
                        sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
                    except FileNotFoundError:
                        continue
    except FileNotFoundError:
        pass
    except OSError as error:
        raise unavailable("read", folder, error) from error
    return sizes


@dataclass(frozen=True)
class _Full:
    """What was found where there was no room.

    Args:
        message: the refusal.
        changed: when folders of the outbox had changed last.
        until: when to look again, though none has changed (``time.monotonic()``).
    """

    message: str
    changed: tuple[int, ...]
    until: float


class Room:
    """Whether there is room for another segment, as one process sees it.

    Args:
        files: the outbox.
        max_bytes: its bound; ``None`` for none.
        segment_bytes: size at which a segment is full, as the settings have it.
    """

    def __init__(self, files: OutboxFiles, *, max_bytes: int | None, segment_bytes: int) -> None:
        self._files = files
        self._max_bytes = max_bytes
        self.segment_bytes = segment_bytes
        """Size at which a segment is full."""
        if max_bytes is not None:
            # What is full can be cleared away: of a small bound, too, all but a small part.
            self.segment_bytes = min(segment_bytes, max_bytes // _SEGMENTS)
        self._full: _Full | None = None

    def require(self) -> None:
        """See that another segment fits.

        Raises:
            OutboxUnavailable: it doesn't; or what is there can't be told.
        """
        if self._max_bytes is None:
            return
        changed = self._changed()
        used = bytes_used(self._files)
        if used + self.segment_bytes <= self._max_bytes:
            self._full = None
            return
        message = (
            f"the outbox {self._files.folder} is full: it holds {used} of {self._max_bytes} bytes, and a new "
            f"segment takes {self.segment_bytes}; see with `keepline status` which destination doesn't take "
            "its events, or raise `max_bytes`"
        )
        self._full = _Full(message, changed, time.monotonic() + _LOOK_EVERY)
        self._wake_relay()
        raise OutboxUnavailable(message)

    def recall(self) -> None:
        """Say again that there is no room, if that was said just now and no segment has come or gone since.

        Raises:
            OutboxUnavailable: there is none.
        """
        full = self._full
        if full is not None and time.monotonic() < full.until and self._changed() == full.changed:
            raise OutboxUnavailable(full.message)

    def _wake_relay(self) -> None:
        with suppress(OSError):
            fd = open_private(self._files.journal / _FULL, os.O_WRONLY | os.O_CREAT)
            try:
                os.pwrite(fd, b"\n", 0)
            finally:
                os.close(fd)

    def _changed(self) -> tuple[int, ...]:
        return tuple(_changed_at(folder) for folder in (self._files.journal, self._files.archive))


def _changed_at(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
