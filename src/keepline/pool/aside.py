"""Calls that were set aside: they ended their workers too often, or can't be unpickled any more.

Each is a file of its own, so that it can be seen, counted and removed by hand. They are tried again, behind
all others, when their folder's spools are adopted, until they are a week old.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from keepline.pool.place import ASIDE, Place, is_own, make_private, open_own, open_to_read, spare_root
from keepline.pool.written import read

if TYPE_CHECKING:
    from pathlib import Path

    from keepline.pool.spool import Spool
    from keepline.pool.written import Written

logger = logging.getLogger(__name__)

KEPT_SECONDS = 7 * 86400.0

_MOST_TRIES = 65535  # that a frame has room for


def set_aside(place: Place, call: Written) -> bool:
    """Write a call to a file of its own.

    Args:
        place: of its spool.
        call: the call.

    Returns:
        whether that could be done.
    """
    frame = call.frame(min(call.tries + 1, _MOST_TRIES))
    for root in (place.root, spare_root(place.root)):
        folder = root / ASIDE
        name = f"{time.time_ns()}-{secrets.token_hex(4)}"
        try:
            make_private(folder)
            file = open_own(folder / f".{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                whole = os.write(file.fd, frame) == len(frame)
            finally:
                file.close()
            if whole:
                (folder / f".{name}").rename(folder / f"{name}.call")
                return True
            (folder / f".{name}").unlink()
        except OSError:
            continue
    return False


def set_aside_files(root: Path) -> list[Path]:
    """The calls that are set aside, the oldest first.

    Args:
        root: of the spools.
    """
    found: list[Path] = []
    for folder in (root / ASIDE, spare_root(root) / ASIDE):
        with suppress(OSError):
            found += [path for path in folder.iterdir() if path.suffix == ".call"]
    return sorted(found, key=lambda path: path.name)


def take_back(root: Path, spool: Spool) -> int:
    """Put what was set aside behind all calls of a spool.

    Args:
        root: of the spools.
        spool: of this process.

    Returns:
        how many calls.

    Raises:
        PoolError: the spool has no room for them; those that are left stay where they are.
        OSError: a file can't be removed.
    """
    taken = 0
    for path in set_aside_files(root):
        if not is_own(path.parent):
            logger.warning("%s is left alone: it is not this user's own", path.parent)
            continue
        call = _read(path)
        if call is None or time.time() - call.when > KEPT_SECONDS:
            logger.warning("the call in %s is given up: it %s", path, "is too old" if call else "is damaged")
        else:
            spool.append(call.frame(call.tries))
            taken += 1
        path.unlink(missing_ok=True)
    return taken


def _read(path: Path) -> Written | None:
    try:
        fd = open_to_read(path)
    except OSError:
        return None
    try:
        return read(fd, 0)
    finally:
        os.close(fd)
