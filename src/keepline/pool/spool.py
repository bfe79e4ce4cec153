"""What a pool has accepted, on disk: written by the process that submits, read by the workers.

A call is one write(2) at the end of a file, with nothing to wait for: no lock of other processes, no sync, no
answer. So submitting takes some microseconds however many calls wait, and they take no memory here. What was
written survives the death of any process, the owner's too.

Where the disk takes no more, calls are written to files in memory, up to a bound. Beyond that, submitting
fails.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from keepline.errors import CallRefused, PoolStopped
from keepline.outbox.files import try_lock
from keepline.pool.place import NEW, Place, make_private, open_own, segment_path, spare_root
from keepline.pool.position import PositionFile
from keepline.pool.segments import Segments

if TYPE_CHECKING:
    from keepline.outbox.owned import OwnedFile
    from keepline.pool.position import Position, Taken
    from keepline.pool.settings import Bounds
    from keepline.pool.written import Written

logger = logging.getLogger(__name__)

_LOCK_SECONDS = 1.0  # it is held for microseconds, unless its holder was stopped


class Spool:
    """The spool of this process, which it makes and holds the lock of.

    Args:
        root: of all spools; None for one that nobody takes over.
        bounds: how large it may become.

    Raises:
        OSError: it can't be made anywhere.
    """

    def __init__(self, root: Path | None, bounds: Bounds) -> None:
        self.refused = 0  # calls
        self._temporary = root is None
        self._bounds = bounds
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._segment: OwnedFile | None = None
        self._numbers = itertools.count(1)
        self._size = 0
        self._ended = False
        self._told = False
        self._problem: OSError | None = None
        self._make(root or spare_root(Path(self._name)))

    def _make(self, root: Path) -> None:
        spare = spare_root(root)
        try:
            if self._temporary:
                raise OSError(errno.ENOENT, "no folder was given")
            self._make_in(root)
        except OSError as error:
            if not self._temporary:
                self._tell(root, error)
            self._make_in(spare)
            self.place = Place(spare if self._temporary else root, spare / self._name, None)
            self._limits = [(self.place.home, self._bounds.spare_bytes, self._bounds.spare_segment)]
            return
        self.place = Place(root, root / self._name, spare / self._name)
        self._limits = [
            (root / self._name, self._bounds.max_bytes, self._bounds.segment_bytes),
            (spare / self._name, self._bounds.spare_bytes, self._bounds.spare_segment),
        ]

    def _make_in(self, root: Path) -> None:
        make_private(root)
        new = root / f"{NEW}{self._name}"
        new.mkdir(mode=0o700)
        place = Place(root, new, None)
        try:
            self._lock = open_own(place.lock, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            try_lock(self._lock.fd)
            self._state = PositionFile(place.state, make=True)
            new.rename(root / self._name)  # by which others see it: it is locked by now
        except OSError:
            place.remove()
            raise

    def append(self, frame: bytes) -> None:
        """Write a call behind all others. The caller sees to it that only one thread does.

        Args:
            frame: the call as it is written.

        Raises:
            CallRefused: there is no room for it.
            PoolStopped: the spool was given up by a stop.
        """
        if not self._ended and self._has_room(len(frame)) and self._write(frame):
            return
        for folder, most, segment in self._limits:
            if self._ended:  # maybe by a signal handler, just now
                raise PoolStopped("the pool was stopped and takes no calls; make a new one")
            try:
                self._begin_segment(folder, most, segment, len(frame))
                if self._write(frame):
                    self._tell_of(folder)
                    return
            except OSError as error:
                self._problem = error
        self.refused += 1
        raise CallRefused(
            f"there is no room for a call in {' or '.join(str(folder) for folder, *_ in self._limits)} "
            f"({self._problem}); free some space there, or raise the bounds of the spool"
        )

    def _has_room(self, size: int) -> bool:
        file = self._segment
        if file is None or self._size + size > self._segment_bytes:
            return False
        try:
            # Somebody who closes every file lets the number of this one come to mean another.
            return file.is_meant_by(os.fstat(file.fd))
        except OSError:
            return False

    def _write(self, frame: bytes) -> bool:
        file = self._segment
        try:
            written = -1 if file is None else os.write(file.fd, frame)
            if written == len(frame):
                self._size += written
                return True
            self._problem = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._problem = error
        # What was cut off stands at the end of its segment, where it is known for that.
        self._close_segment()
        return False

    def _begin_segment(self, folder: Path, most: int, segment: int, size: int) -> None:
        self._close_segment()
        if folder != self.place.home and not folder.exists():
            make_private(folder)
        used = sum(path.stat().st_size for path in _segments(folder))
        if used + size > most:
            raise OSError(errno.ENOSPC, f"it has {used} bytes, of {most} that it may have")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        self._segment = open_own(segment_path(folder, next(self._numbers)), flags)
        self._size = 0
        self._segment_bytes = segment

    def _close_segment(self) -> None:
        file, self._segment = self._segment, None
        if file is not None:
            file.close()

    def _tell_of(self, folder: Path) -> None:
        if folder == self.place.home:
            if self._told and len(self._limits) > 1:
                self._told = False
                logger.info("calls are written to %s again", folder)
        elif not self._told:
            self._tell(self.place.home, self._problem)

    def _tell(self, folder: Path, problem: OSError | None) -> None:
        self._told = True
        text = "calls can't be written to %s (%s); up to %d MB of them are kept in memory meanwhile"
        logger.warning(text, folder, problem, self._bounds.spare_bytes // 1_000_000)

    def position(self) -> Position:
        """What is done. For any thread.

        Raises:
            OSError: it can't be read.
        """
        return self._state.read()

    def waiting(self, most: int) -> int:
        """Count the calls that nobody has. For any thread.

        Args:
            most: where to stop counting.

        Raises:
            OSError: it can't be read.
        """
        segments = Segments(self.place)
        try:
            return sum(1 for _ in zip(range(most), segments.waiting(self.position()), strict=False))
        finally:
            segments.close()

    def left(self) -> int:
        """Count the calls that aren't done."""
        taken = sum(1 for one in self.position().taken if one.worker)
        return taken + self.waiting(1 << 62)

    def read(self, taken: Taken) -> Written | None:
        """Read a call that a worker had; None if its file was removed.

        Args:
            taken: where it stands.
        """
        segments = Segments(self.place)
        try:
            return segments.at(*taken.key)
        finally:
            segments.close()

    def release(self, worker: int) -> Taken | None:
        """Note that a worker is dead. What it had is to be run again.

        Args:
            worker: its number.

        Returns:
            what it had, if anything.

        Raises:
            OutboxLocked: another worker was stopped at the wrong moment.
            OSError: the state can't be written.
        """
        with self._state.change(_LOCK_SECONDS) as position:
            taken = position.of(worker)
            if taken is not None:
                taken.worker = 0
                taken.deaths += 1
            return taken

    def drop(self, taken: Taken) -> None:
        """Note that a call, which nobody has, isn't to be run again.

        Args:
            taken: which.

        Raises:
            OutboxLocked: see release().
            OSError: see release().
        """
        with self._state.change(_LOCK_SECONDS) as position:
            position.taken = [one for one in position.taken if one.key != taken.key]

    def close_to_workers(self) -> None:
        """Let workers take no more calls.

        Raises:
            OutboxLocked: see release().
            OSError: see release().
        """
        with self._state.change(_LOCK_SECONDS / 4) as position:
            position.closed = True

    def end(self) -> int:
        """Give the spool up: to nobody if nothing is left, or else to who adopts it.

        Returns:
            how many calls are left.
        """
        self._ended = True
        self._close_segment()
        try:
            left = self.left()
        except OSError:  # it was removed behind our back, or this is a forked child
            left = 0
        else:
            if not left or self._temporary:
                self.place.remove()
            if self._temporary:
                shutil.rmtree(self.place.root, ignore_errors=True)
        self._state.close()
        self._lock.close()
        return left


def _segments(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return [path for path in folder.iterdir() if path.suffix == ".calls"]
    return []
