"""What is in the spools of a folder, for those who only look: nothing is written, and nobody is held up."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from keepline.pool.aside import set_aside_files
from keepline.pool.place import ASIDE, NEW, Place, spare_root
from keepline.pool.position import PositionFile
from keepline.pool.segments import Segments

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_COUNTED = 50_000  # calls of a spool; takes half a second


class Spooled(NamedTuple):
    """What is in the spools of all processes that share a folder, those of dead ones among them.

    Args:
        waiting: calls that aren't done; of each spool at most 50,000 are counted.
        set_aside: calls that were set aside.
    """

    waiting: int
    set_aside: int


def look_into(root: Path) -> Spooled:
    """Count calls.

    Args:
        root: of the spools; one that isn't there has none.
    """
    waiting = 0
    for place in places(root):
        with suppress(OSError):  # its owner has just removed it
            waiting += _waiting(place)
    return Spooled(waiting, len(set_aside_files(root)))


def places(root: Path) -> Iterator[Place]:
    """The spools there are, by the names of their folders.

    Args:
        root: of the spools.
    """
    spare = spare_root(root)
    names: set[str] = set()
    for base in (root, spare):
        with suppress(OSError):
            for home in sorted(base.iterdir()):
                if home.name != ASIDE and not home.name.startswith(NEW) and home.name not in names:
                    names.add(home.name)
                    yield Place(root, home, spare / home.name if base == root else None)


def _waiting(place: Place) -> int:
    state = PositionFile(place.state)
    segments = Segments(place)
    try:
        position = state.read()
        in_hand = sum(1 for one in position.taken if one.worker)
        return in_hand + sum(1 for _ in islice(segments.waiting(position), _COUNTED))
    finally:
        segments.close()
        state.close()
