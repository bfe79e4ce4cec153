"""Something that keeps failing, such as a full disk: when to try again, and what to log of it."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_LOG_EVERY = 60.0


class Trouble:
    """Counts failures of one kind, logs them at a bounded rate, and logs their end.

    Args:
        what: can't be done, in words that follow "can't".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._failures = 0
        self._logged_at = 0.0

    def again_after(self, error: Exception) -> float:
        """Take note of a failure.

        Args:
            error: what went wrong; its text is logged.

        Returns:
            seconds to wait before the next try: doubling, capped.
        """
        now = time.monotonic()
        self._failures += 1
        if self._failures == 1 or now - self._logged_at >= _LOG_EVERY:
            self._logged_at = now
            log.warning("can't %s, and goes on trying: %s", self._what, error)
        return min(_FIRST_PAUSE * 2.0 ** min(self._failures - 1, 30), _LONGEST_PAUSE)

    def over(self) -> None:
        """Take note that it went well."""
        if self._failures:
            log.info("can %s again", self._what)
        self._failures = 0
