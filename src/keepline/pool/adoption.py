"""Taking over the spools whose owners are dead: what they had accepted is still to be done."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from keepline.outbox.files import try_lock
from keepline.pool.aside import set_aside_files, take_back
from keepline.pool.place import ASIDE, NEW, Place, is_own, open_own, spare_root
from keepline.pool.position import PositionFile
from keepline.pool.segments import Segments

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keepline.pool.spool import Spool

logger = logging.getLogger(__name__)

_LOCK_SECONDS = 1.0
_ABANDONED_SECONDS = 3600.0  # a folder that has been in the making for so long won't be finished


def something_left(root: Path) -> bool:
    """Whether there may be something to adopt.

    Args:
        root: of the spools.
    """
    return bool(_places(root) or set_aside_files(root))


def adopt(root: Path, spool: Spool) -> int:
    """Put what dead owners have left behind the calls of a spool, and behind that what was set aside.

    What a dead owner's worker has in hand at this moment, if one lives on, is run twice. So is what was
    copied already, if this process is killed meanwhile.

    Args:
        root: of the spools.
        spool: of this process.

    Returns:
        how many calls.

    Raises:
        PoolError: the spool has no room for them; those that are left stay where they are.
        OSError: a file can't be read or removed.
    """
    adopted = 0
    for place in _places(root):
        if place.home == spool.place.home:
            continue
        if not is_own(place.home) or (place.spare and place.spare.exists() and not is_own(place.spare)):
            logger.warning("the spool %s is left alone: it is not this user's own", place.home)
            continue
        adopted += _adopt(place, spool)
    return adopted + take_back(root, spool)


def _adopt(place: Place, spool: Spool) -> int:
    try:
        lock = open_own(place.lock, os.O_RDWR)
    except FileNotFoundError:  # somebody is removing it, or was killed when nearly done
        if not place.segments():
            place.remove()
        return 0
    try:
        if not try_lock(lock.fd) or not lock.is_at_its_path():  # it lives, or another has just adopted it
            return 0
        adopted = _copy(place, spool)
        place.remove()
        return adopted
    finally:
        lock.close()


def _copy(place: Place, spool: Spool) -> int:
    state = PositionFile(place.state)
    segments = Segments(place)
    adopted = 0
    try:
        with state.change(_LOCK_SECONDS) as position:
            for one in position.taken:
                one.worker = 0  # whoever has it has no owner any more
            for one in position.free:
                call = segments.at(*one.key)
                if call is not None:
                    spool.append(call.frame(call.tries))
                    adopted += 1
                position.taken.remove(one)
            while (found := segments.following(position.segment, position.offset)) is not None:
                spool.append(found.call.frame(found.call.tries))
                adopted += 1
                position.segment, position.offset = found.segment, found.end
    finally:
        segments.close()
        state.close()
    return adopted


def _places(root: Path) -> list[Place]:
    """The spools there are, the oldest first; what was never finished is removed."""
    spare = spare_root(root)
    found: dict[str, Place] = {}
    for base in (root, spare):
        for folder in _folders(base):
            name = folder.name
            if name.startswith(NEW):
                _clear(Place(root, folder, None))
            elif name != ASIDE and name not in found:
                found[name] = Place(root, folder, spare / name if base == root else None)
    return sorted(found.values(), key=lambda place: _age(place.home), reverse=True)


def _folders(base: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (path for path in base.iterdir() if path.is_dir())


def _clear(place: Place) -> None:
    if _age(place.home) > _ABANDONED_SECONDS and is_own(place.home):
        place.remove()


def _age(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0
