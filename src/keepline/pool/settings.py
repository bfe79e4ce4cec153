"""What a pool was told, for all its parts."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext


@dataclass(frozen=True)
class Settings:
    """What a pool was told; see Pool."""

    factory: Callable[[], object]
    workers: int
    context: BaseContext | None
    attempts: int
    start_timeout: float
    name: str

    @property
    def context_now(self) -> BaseContext:
        """How to start workers at this time."""
        return self.context or multiprocessing.get_context()

    @property
    def forks(self) -> bool:
        """Whether workers are to be forks of this process."""
        return self.context_now.get_start_method() == "fork"
