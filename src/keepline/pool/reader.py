"""A worker's hand in the spool: it takes the calls itself, one by one, in their order."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from keepline.pool.position import PositionFile, Taken
from keepline.pool.segments import Segments

if TYPE_CHECKING:
    from keepline.pool.place import Place
    from keepline.pool.position import Position
    from keepline.pool.written import Written

# The lock is held for microseconds, unless its holder was stopped at that moment. Then the owner ends that
# one; or it has died, and this worker ends.
_LOCK_SECONDS = 30.0


class Reader:
    """Takes calls from a spool.

    Args:
        place: of the spool.
        worker: the number of this worker.

    Raises:
        OSError: the spool can't be opened.
    """

    def __init__(self, place: Place, worker: int) -> None:
        self.place = place
        self._worker = worker
        self._state = PositionFile(place.state)
        self._segments = Segments(place)
        self._tidied = 0

    def next(self) -> Written | None:
        """Note that the call which this worker has is done, and take the next; None if there is none.

        Raises:
            OutboxLocked: the state was locked for too long.
            OSError: it can't be read or written.
        """
        with self._state.change(_LOCK_SECONDS) as position:
            self._finish(position)
            call = None if position.closed else self._take(position)
        self._tidy(position.oldest)
        return call

    def end(self) -> None:
        """Note that the call which this worker has is done, and close the files.

        Raises:
            OutboxLocked: see next().
            OSError: see next().
        """
        try:
            with self._state.change(_LOCK_SECONDS) as position:
                self._finish(position)
        finally:
            self._segments.close()
            self._state.close()

    def _finish(self, position: Position) -> None:
        if position.of(self._worker):
            position.taken = [one for one in position.taken if one.worker != self._worker]

    def _take(self, position: Position) -> Written | None:
        for one in position.free:
            call = self._segments.at(*one.key)
            if call is not None:
                one.worker, one.since = self._worker, time.monotonic()
                return call
            position.taken.remove(one)  # somebody has removed its file
        found = self._segments.following(position.segment, position.offset)
        if found is None:
            return None
        position.taken.append(Taken(found.segment, found.offset, self._worker, time.monotonic()))
        position.segment, position.offset = found.segment, found.end
        return found.call

    def _tidy(self, oldest: int) -> None:
        if oldest <= self._tidied:
            return
        self._tidied = oldest
        for number, path in self.place.segments().items():
            if number < oldest:
                path.unlink(missing_ok=True)
