"""What is in the spools and not done yet, for who only looks: nothing is taken, and no lock is waited for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from keepline.pool.aside import set_aside_files
from keepline.pool.looking import places
from keepline.pool.place import Place, open_to_read
from keepline.pool.position import PositionFile
from keepline.pool.segments import Segments
from keepline.pool.written import Written, read

_LOOKS = 5


def unread(root: Path) -> Iterator[Written]:
    """The calls that were submitted before this is called, and aren't done; some may come twice, or be done.

    Those that workers have in hand are among them, and those that are set aside.

    Args:
        root: of the spools.

    Raises:
        OSError: a file can't be read, for want of descriptors, say.
    """
    seen: list[str] = []
    for _ in range(_LOOKS):
        # What is adopted moves to another spool meanwhile, which may have been looked at.
        now = sorted(place.home.name for place in places(root))
        if now == seen:
            break
        seen = now
        for place in places(root):
            yield from _unread_in(place)
    for path in set_aside_files(root):
        with suppress(FileNotFoundError, PermissionError):
            fd = open_to_read(path)
            try:
                call = read(fd, 0)
            finally:
                os.close(fd)
            if call is not None:
                yield call


def _unread_in(place: Place) -> Iterator[Written]:
    try:
        state = PositionFile(place.state)
    except (FileNotFoundError, PermissionError):  # it was just adopted, or is nobody's to read
        return
    segments = Segments(place)
    try:
        position = state.read()
        for one in position.taken:
            call = segments.at(*one.key)
            if call is not None:
                yield call
        for found in segments.waiting(position):
            yield found.call
    finally:
        segments.close()
        state.close()
