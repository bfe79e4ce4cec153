"""What goes wrong again and again, such as a full disk: when to try again, and how often to say so."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_SAY_EVERY = 60.0


class Seldom:
    """Keeps what could be said at every turn to once a minute."""

    def __init__(self) -> None:
        self._said_at = float("-inf")

    def due(self) -> bool:
        """Whether to say it now; the next time is a minute later at the earliest."""
        now = time.monotonic()
        if now - self._said_at < _SAY_EVERY:
            return False
        self._said_at = now
        return True


class Trouble:
    """Counts failures of one kind, logs them seldom, and logs their end.

    Args:
        what: can't be done, in words that follow "can't".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._failures = 0
        self._seldom = Seldom()

    def again_after(self, error: Exception) -> float:
        """Take note of a failure.

        Args:
            error: what went wrong; its text is logged.

        Returns:
            seconds to wait before the next try: doubling, capped.
        """
        self._failures += 1
        if self._seldom.due():
            log.warning("can't %s, and goes on trying: %s", self._what, error)
        return min(_FIRST_PAUSE * 2.0 ** min(self._failures - 1, 30), _LONGEST_PAUSE)

    def over(self) -> None:
        """Take note that it went well."""
        if self._failures:
            log.info("can %s again", self._what)
            self._seldom = Seldom()
        self._failures = 0
