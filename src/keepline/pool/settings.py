"""What a pool was told, for all its parts."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext


@dataclass(frozen=True)
class Bounds:
    """How large a spool may become.

    Args:
        max_bytes: on disk.
        segment_bytes: of one file on disk, which is removed when all in it is done.
        spare_bytes: in memory, while the disk takes nothing.
        spare_segment: of one file in memory; so often is the disk tried again.
    """

    max_bytes: int = 1 << 30
    segment_bytes: int = 4 << 20
    spare_bytes: int = 16 << 20
    spare_segment: int = 1 << 20


@dataclass(frozen=True)
class Settings:
    """What a pool was told; see Pool."""

    factory: Callable[[], object]
    workers: int
    context: BaseContext | None
    attempts: int
    start_timeout: float
    call_timeout: float
    name: str

    @property
    def context_now(self) -> BaseContext:
        """How to start workers at this time."""
        return self.context or multiprocessing.get_context()

    @property
    def forks(self) -> bool:
        """Whether workers are to be forks of this process."""
        return self.context_now.get_start_method() == "fork"
