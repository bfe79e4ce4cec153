"""What a lane asks of a destination."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True)
class Passed:
    """What became of a try at several destinations that stand in for one another.

    Args:
        tries: how many of them were asked.
        taken_by: the id of the one that took the event.
        before: what the others had said, in words.
        later: whether the event has to wait, though others need not.
        blamed: whether it failed where others have succeeded since its last try.
        status: HTTP status of the last of their answers, where none took it.
    """

    tries: int
    taken_by: int | None = None
    before: str = ""
    later: bool = False
    blamed: bool = False
    status: int | None = None


@dataclass(frozen=True)
class Answer:
    """What a destination made of one try. Its texts are fit to be shown: see :mod:`.masking`.

    Args:
        status: HTTP status; ``None`` when no answer came, or a 2xx that broke off.
        error: why there is no status, in words; empty otherwise.
        accepted: whether the transport took the event without telling a status.
        timed_out: whether the deadline passed.
        refused: whether the transport said, without a status, that it can't take this event.
        retry_after: the Retry-After header as it came; empty when there was none.
        excerpt: the beginning of the body.
        passed: by which destinations it came; ``None`` for an answer of one that stands alone.
    """

    status: int | None = None
    error: str = ""
    accepted: bool = False
    timed_out: bool = False
    refused: bool = False
    retry_after: str = ""
    excerpt: str = ""
    passed: Passed | None = None

    def __str__(self) -> str:
        if self.status is None:
            return "accepted" if self.accepted else self.error
        return f"HTTP {self.status}" + (f": {self.excerpt}" if self.excerpt else "")


Done = Callable[[int, Answer], None]
"""Takes an event's id and the answer to its try."""


class Try(NamedTuple):
    """One try at a delivery.

    Args:
        event: the event's id, handed back with the answer.
        body: the event's JSON.
        deadline: seconds until it is given up.
    """

    event: int
    body: bytes
    deadline: float

    def __repr__(self) -> str:
        # Without the body, which may hold secrets.
        return f"Try(event={self.event}, deadline={self.deadline})"


class Destination(Protocol):
    """Takes tries and answers each exactly once.

    Nothing in it blocks: :meth:`start` returns at once, and answers come through the ``done`` that the
    destination was built with, on the relay's thread, after :meth:`start` has returned.
    """

    capacity: int
    """Most tries at once."""
    timeout: float
    """Seconds that one try may take, as configured."""

    def start(self, one: Try) -> None:
        """Begin a try. Never called while ``capacity`` tries are under way."""

    def close(self, timeout: float) -> None:
        """Let go of everything within a bounded time, seconds; may be called again to wait longer.

        Tries under way are not answered any more.
        """
