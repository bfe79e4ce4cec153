"""A relay in a thread of the process that emits, for one-shot scripts and pods."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from pathlib import Path

from keepline.config import Settings
from keepline.errors import KeeplineError
from keepline.outbox.files import OutboxFiles
from keepline.outbox.status import something_waits
from keepline.relay.lock import RelayLock
from keepline.relay.relay import Relay
from keepline.relay.trouble import Seldom

log = logging.getLogger(__name__)


class InlineRelay:
    """The relay of one outbox in this process; made by :meth:`of`.

    When another relay already delivers that outbox, this one only looks now and then whether it still does.
    A forked child makes its own.

    Args:
        settings: what to deliver, and where to.
    """

    _made: dict[Path, InlineRelay] = {}  # noqa: RUF012 - one relay an outbox and process, on purpose

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._left_alone: list[Future[Relay | None]] = []
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None
        self._relay: Future[Relay | None] = Future()
        self._used = False
        self._next_look = 0.0
        self._seldom = Seldom()

    @classmethod
    def of(cls, settings: Settings) -> InlineRelay:
        """The relay of an outbox in this process.

        Args:
            settings: what to deliver, and where to.
        """
        found = cls._made.get(settings.outbox)
        if found is None:
            found = cls._made.setdefault(settings.outbox, cls(settings))
            atexit.register(found._at_exit)
        return found

    def _at_exit(self) -> None:
        if self._used:
            self.stop(self._settings.tuning.exit_timeout)

    def own(self) -> None:
        """In a forked child, begin anew: what it emits and finds is its own to deliver."""
        if self._pid != os.getpid():
            # What the parent's relay holds is the parent's. It is kept, never used or closed: to close its
            # connections here would end them there.
            self._left_alone.append(self._relay)
            self._begin()

    def ensure(self, *, now: bool) -> None:
        """See to it that a relay lives; a failure is logged, since the events are safe in the outbox.

        Args:
            now: look at once, because another process's relay can have ended.
        """
        self.own()
        self._used = True
        if self._thread is not None and self._thread.is_alive():
            return
        with self._mutex:
            clock = time.monotonic()
            if not now and clock < self._next_look:
                return
            self._next_look = clock + self._settings.tuning.look_every
            try:
                self._start()
            except Exception as error:
                self._warn(error)

    def _start(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        lock = RelayLock.take(OutboxFiles(self._settings.outbox))
        if lock is None:
            return
        self._relay = Future()
        # A daemon: stop() waits for it, but nothing may keep the interpreter from ending.
        thread = threading.Thread(
            target=self._run, args=(lock, self._relay), name="keepline-relay", daemon=True
        )
        try:
            thread.start()
        except BaseException:
            lock.release()
            raise
        self._thread = thread

    def _run(self, lock: RelayLock, made: Future[Relay | None]) -> None:
        relay = None
        try:
            lock.announce(self._settings, inline=True)
            relay = Relay(self._settings, lock, ends_when_idle=False)
            made.set_result(relay)
            relay.run()
        except Exception as error:
            self._warn(error)
        finally:
            lock.release()
            if relay is None:
                made.set_result(None)

    def _warn(self, error: Exception) -> None:
        if self._seldom.due():
            log.warning("keepline can't deliver from this process; events wait in the outbox: %s", error)

    def stop(self, timeout: float, *, within: float | None = None) -> bool:
        """Deliver what waits, then end the thread; what is left stays in the outbox.

        Args:
            timeout: longest wait for deliveries, seconds; negative for no bound.
            within: longest wait after that for requests under way; ``None`` for the setting
                ``stop_timeout``.

        Returns:
            whether everything that was appended has ended.
        """
        if self._pid != os.getpid():
            return True  # A child that has emitted nothing; what the parent emitted is the parent's.
        if self._thread is None:
            if not self._something_waits():
                return True
            # The one that has delivered so far, in another process, may have ended.
            self.ensure(now=True)
        if self._thread is None:
            return False
        deadline = time.monotonic() + timeout
        try:
            relay = self._relay.result(timeout if timeout >= 0 else None)
        except NotInTime:
            return False  # It is still opening the outbox; nothing was tried.
        left = max(deadline - time.monotonic(), 0.0) if timeout >= 0 else -1.0
        delivered = relay is not None and relay.wait_idle(left)
        if relay is not None:
            relay.stop(within)
        self._thread.join((self._settings.tuning.stop_timeout if within is None else within) + 1.0)
        if not self._thread.is_alive():
            self._thread = None
        self._next_look = 0.0
        self._used = False
        return delivered

    def _something_waits(self) -> bool:
        try:
            return something_waits(OutboxFiles(self._settings.outbox))
        except KeeplineError as error:
            self._warn(error)
            return True
