"""A relay in a thread of the process that emits, for one-shot scripts and pods."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from pathlib import Path

from keepline.config import Settings
from keepline.errors import KeeplineError
from keepline.outbox.files import OutboxFiles
from keepline.relay.lock import RelayLock
from keepline.relay.relay import Relay

log = logging.getLogger(__name__)

_EXIT_SECONDS = 10.0


class InlineRelay:
    """The relay of one outbox in this process; made by :meth:`of`.

    When another relay already delivers that outbox, this one does nothing. A forked child makes its own.

    Args:
        settings: what to deliver, and where to.
    """

    _made: dict[Path, InlineRelay] = {}  # noqa: RUF012 - one relay an outbox and process, on purpose

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None
        self._relay: Relay | None = None

    @classmethod
    def of(cls, settings: Settings) -> InlineRelay:
        """The relay of an outbox in this process.

        Args:
            settings: what to deliver, and where to.
        """
        found = cls._made.get(settings.outbox)
        if found is None:
            found = cls._made.setdefault(settings.outbox, cls(settings))
            atexit.register(found.stop, _EXIT_SECONDS)
        return found

    def ensure(self) -> None:
        """See to it that the thread runs; a failure is logged, since the events are safe in the outbox."""
        if self._pid != os.getpid():
            self._begin()
        with self._mutex:
            if self._thread is not None and self._thread.is_alive():
                return
            try:
                self._start()
            except KeeplineError as error:
                log.warning("keepline can't deliver from this process; events wait in the outbox: %s", error)

    def _start(self) -> None:
        lock = RelayLock.take(OutboxFiles(self._settings.outbox))
        if lock is None:
            return
        try:
            lock.announce(self._settings)
            self._relay = Relay(self._settings, lock, ends_when_idle=False)
        except BaseException:
            lock.release()
            raise
        # A daemon: stop() waits for it, but nothing may keep the interpreter from ending.
        self._thread = threading.Thread(target=self._relay.run, name="keepline-relay", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Deliver what waits, then end the thread; what is left stays in the outbox.

        Args:
            timeout: longest wait for deliveries, seconds; negative for no bound.

        Returns:
            whether everything that was appended has ended.
        """
        if self._pid != os.getpid() or self._relay is None or self._thread is None:
            return True
        relay, thread = self._relay, self._thread
        delivered = relay.wait_idle(timeout)
        relay.stop()
        thread.join(self._settings.tuning.stop_timeout + 1.0)
        self._relay = self._thread = None
        return delivered
