"""What a recording destination is told to do, and what it keeps of each request."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias


class Fault(enum.Enum):
    """What a destination does instead of giving a whole answer."""

    CLOSE_ON_ACCEPT = "closes a new connection at once, before TLS; one that is open, before its answer"
    RESET_BEFORE_ANSWER = "reads the request, then resets the connection"
    CLOSE_BEFORE_ANSWER = "reads the request, then closes the connection"
    RESET_MID_BODY = "answers 201, sends half of the promised body, then resets the connection"
    SLOW_DRIP = "sends one byte of an answer each 0.2 s, for ever"
    ENDLESS_BODY = "answers 201 with a body that never ends, as fast as it is read"
    NO_ANSWER = "reads the request and never answers"
    GARBAGE = "answers what isn't HTTP, then closes the connection"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Args:
        status: the HTTP status.
        delay: seconds between the request's last byte and the answer's first; other requests aren't held up.
        headers: sent as they are.
        body: sent as it is.
    """

    status: int = 201
    delay: float = 0.0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived.

    Args:
        at: when its last byte arrived, in seconds of ``time.monotonic()``.
        method: as sent.
        path: the request target as sent.
        headers: by lower-case name.
        body: without its transfer and content encodings.
        status: of the whole answer; None while there is none yet, and for a fault for good.
        connection: the number of its connection, counted from 1.
    """

    at: float
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int | None
    connection: int


if TYPE_CHECKING:
    Choice: TypeAlias = Answer | Fault | Callable[[Received], Answer | Fault]


class Plan:
    """What to do about the next request: the last thing set that still counts; 201 when nothing was set."""

    def __init__(self) -> None:
        # The last set at the end; beside each, how many requests it is still for, or None for all.
        self._steps: list[tuple[Choice, int | None]] = [(Answer(), None)]

    def set(self, choice: Choice, times: int | None) -> None:
        """Do this from now on.

        Args:
            choice: an answer, a fault, or what decides for each request.
            times: for how many requests; after them, what was set before goes on. None for all.
        """
        if times is None:
            self._steps.clear()
        if times is None or times > 0:
            self._steps.append((choice, times))

    def peek(self) -> Choice:
        """Tell what `take` would give."""
        return self._steps[-1][0]

    def take(self) -> Choice:
        """Tell what to do about one request, and count it."""
        choice, times = self._steps[-1]
        if times is not None:
            self._steps.pop()
            self.set(choice, times - 1)
        return choice
