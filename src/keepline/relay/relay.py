"""The relay: takes events in from the journal and delivers them. It keeps no state of its own.

Killed at any instant, the next one goes on from what the outbox says; what was answered and not yet marked is
delivered twice. It sleeps on file descriptors and on the pauses of an outage.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import ExitStack
from typing import Any

from keepline.config import Durability, Settings
from keepline.destinations.curl import CurlLoop
from keepline.destinations.ready import ready
from keepline.errors import OutboxDamaged, OutboxError, RelayError
from keepline.outbox.delivery import Ended, Tried
from keepline.outbox.files import OutboxFiles
from keepline.outbox.ledger import Ledger
from keepline.outbox.repair import open_repaired
from keepline.outbox.sqlite import LOG_BYTES
from keepline.relay.bell import hang
from keepline.relay.idleness import Idleness
from keepline.relay.inbound import Inbound
from keepline.relay.lanes import Lanes
from keepline.relay.lock import RelayLock
from keepline.relay.pruner import Pruner
from keepline.relay.trouble import Trouble

log = logging.getLogger(__name__)

_CLOSE_SECONDS = 0.5
# So many logs of the ledger fill an outbox that is small.
_LOGS = 16
# How long lanes that have enough to do keep the next batch in the journal.
_FED_SECONDS = 0.1


class Relay:
    """Delivers what one outbox holds, until it is told to stop or, if it may, has been idle for long.

    Args:
        settings: outbox, destinations and bounds.
        lock: the relay's lock of that outbox, held; the relay gives it back when it ends, or can't begin.
        ends_when_idle: whether it ends by itself when there is nothing left to do.

    Raises:
        OutboxError: the outbox can't be opened.
        RelayError: the journal can't be watched.
        Exception: a leg's settings are wrong; the client's own message.
    """

    def __init__(self, settings: Settings, lock: RelayLock, *, ends_when_idle: bool) -> None:
        self._tuning = settings.tuning
        self._files = OutboxFiles(settings.outbox)
        self._lock = lock
        self._failed: BaseException | None = None
        self._stopping = False
        self._draining = False
        self._ended: list[Ended] = []
        self._tried: dict[tuple[int, int], Tried] = {}
        self._settling: asyncio.Handle | None = None
        self._taking: asyncio.Handle | None = None
        self._pruning: asyncio.Handle | None = None
        # Whether that waits for the lanes to need more.
        self._sated = False
        self._reading = Trouble("take events in")
        self._writing = Trouble("use the ledger")
        self._archiving = Trouble("archive a segment")
        self._tidying: asyncio.TimerHandle | None = None
        # Let go of from the last to the first. Destinations go before the ledger, since nothing may be
        # answered once that is closed; the lock goes last, since whoever takes it may write the ledger.
        with ExitStack() as opened:
            opened.callback(lock.release)
            legs = ready(settings.legs)
            power = settings.durability is Durability.POWER
            self._ledger: Ledger = open_repaired(
                self._files, power=power, log_bytes=min(LOG_BYTES, self._tuning.max_bytes // _LOGS)
            )
            opened.callback(self._close_ledger)
            self._loop = asyncio.new_event_loop()
            self._loop.set_exception_handler(self._on_error)
            opened.callback(self._loop.close)
            files = self._files
            self._bell = hang(files.journal, needed=(files.journal, files.relay_lock, files.ledger))
            opened.callback(self._bell.close)
            self._curl = CurlLoop(self._loop, connections=max(self._tuning.max_connections, len(legs)))
            opened.callback(self._curl.close)
            self._lanes = Lanes(
                self._ledger,
                self._tuning,
                self._loop,
                self._curl,
                ended=self._ended.append,
                tried=self._on_tried,
                wake=self._settle_soon,
            )
            opened.callback(self._lanes.close, _CLOSE_SECONDS)
            waiting_at = self._lanes.open(legs, failover=settings.failover)
            self._inbound = Inbound(self._files, self._ledger, self._tuning, waiting_at)
            self._pruner = Pruner(files, self._ledger, self._tuning)
            self._idleness = Idleness(
                self._loop,
                ring=self._ring,
                lasts=self._tuning.relay_idle,
                lasted=self._end_if_idle if ends_when_idle else None,
            )
            self._opened = opened.pop_all()

    def run(self) -> None:
        """Deliver until stopped. Everything is let go of when it returns, also after an error.

        Raises:
            RelayError: something nobody foresaw went wrong; nothing is lost.
        """
        try:
            with self._opened:
                self._loop.add_reader(self._bell.fileno(), self._on_bell)
                self._ring()
                self._loop.run_forever()
                self._mark_the_rest()
        finally:
            self._idleness.over()
        if self._failed is not None:
            raise RelayError(f"the relay of {self._files.folder} ends: {self._failed}") from self._failed

    def stop(self, within: float | None = None) -> None:
        """Ask the relay to end, from any thread: no new tries, then a bounded wait for those under way.

        Args:
            within: longest wait, seconds; ``None`` for the setting ``stop_timeout``.
        """
        try:
            self._loop.call_soon_threadsafe(self._on_stop, within)
        except RuntimeError:
            return  # It has ended already.

    def wait_idle(self, timeout: float) -> bool:
        """Wait, on another thread, until all that was appended before has ended.

        Args:
            timeout: longest wait, seconds; negative for no bound.

        Returns:
            whether it has; not when the relay ended before.
        """
        return self._idleness.wait(timeout)

    def call_on_signal(self, signals: tuple[int, ...], *, drain: float = 0.0) -> None:
        """End on these signals; only in a main thread.

        Args:
            signals: which.
            drain: seconds that the first of them leaves to deliver what waits; the next one ends it.
        """
        for number in signals:
            self._loop.add_signal_handler(number, self._on_signal, drain)

    def _on_signal(self, drain: float) -> None:
        if drain and not self._draining:
            self._draining = True
            log.info("the relay has been told to end, and delivers what waits for at most %g s", drain)
            self._loop.call_later(drain, self._on_stop)
            self._idleness.once(self._on_stop)
            return
        log.info("the relay has been told to end")
        self._on_stop()

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # What nobody foresaw: end, so that the next relay begins again from what the outbox says.
        error = context.get("exception")
        log.error("the relay meets an error: %s", context.get("message"), exc_info=error)
        self._fail(error if isinstance(error, BaseException) else RelayError(str(context)))

    def _on_bell(self) -> None:
        if self._bell.silence():
            self._ring()
        else:
            # At once: what is under way can't be marked any more.
            self._fail(RelayError("its journal, ledger or lock is gone"))

    def _fail(self, error: BaseException) -> None:
        self._failed = error
        self._loop.stop()

    def _ring(self) -> None:
        if self._taking is None:
            self._taking = self._loop.call_soon(self._take_in)

    def _take_in(self) -> None:
        self._taking = None
        self._sated = False
        if self._stopping:
            return
        try:
            taken = self._inbound.take_in()
            if taken is not None:
                self._lanes.more(taken.events)
                for command in taken.commands:
                    self._lanes.apply(command)
                self._take_next()
            if self._settling is None:
                # Otherwise that comes after the marking, so that no more is under way or unmarked at a time
                # than there are connections.
                self._lanes.pump()
        except OutboxError as error:
            self._try_later(error)
            return
        self._reading.over()
        self._tidy()
        self._look_after()

    def _tidy(self) -> None:
        if self._tidying is not None:
            return  # After a failure, not before its time.
        try:
            self._inbound.tidy()
        except OutboxDamaged as error:
            self._fail(error)
        except OutboxError as error:
            # What it is about is in the ledger already: nothing waits for this.
            self._tidying = self._loop.call_later(self._archiving.again_after(error), self._tidy_again)
        else:
            self._archiving.over()

    def _tidy_again(self) -> None:
        self._tidying = None
        self._tidy()

    def _take_next(self) -> None:
        if self._lanes.fed:
            # What lanes are given as it is taken in needn't be read again: they get more when they need it.
            self._taking = self._loop.call_later(_FED_SECONDS, self._take_in)
            self._sated = True
        else:
            # Through the loop, so that answers are taken between two batches.
            self._ring()

    def _try_later(self, error: OutboxError) -> None:
        if isinstance(error, OutboxDamaged):
            self._fail(error)  # The next relay repairs it.
            return
        self._sated = False
        if self._taking is not None:
            self._taking.cancel()
        self._taking = self._loop.call_later(self._reading.again_after(error), self._take_in)

    def _settle_soon(self) -> None:
        if self._settling is None:
            # One transaction for all that was answered in this turn of the loop.
            self._settling = self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        self._settling = None
        try:
            self._mark()
            self._lanes.hold(self._stopping)
            self._lanes.pump()
            if self._sated and not self._lanes.fed and self._taking is not None:
                self._taking.cancel()
                self._taking = None
                self._ring()
        except OutboxDamaged as error:
            self._fail(error)
            return
        except OutboxError as error:
            # What is answered and can't be marked would be delivered again: begin nothing more.
            self._lanes.hold(True)
            self._settling = self._loop.call_later(self._writing.again_after(error), self._settle)
            return
        self._writing.over()
        self._look_after()
        if self._stopping and not self._lanes.busy:
            self._loop.stop()

    def _on_tried(self, one: Tried) -> None:
        self._tried[one.destination, one.event] = one

    def _mark(self) -> None:
        with self._ledger.transaction():
            if self._tried:
                self._ledger.tried(list(self._tried.values()))
            if self._ended:
                self._ledger.end(self._ended, time.time())
            self._lanes.describe()
        self._ended.clear()
        self._tried.clear()
        self._lanes.described()

    def _look_after(self) -> None:
        if self._inbound.caught_up and self._pruning is None and (pause := self._pruner.look()) is not None:
            self._pruning = self._loop.call_later(pause, self._prune)
        self._idleness.tell(self._lanes.idle and self._taking is None and self._settling is None)

    def _prune(self) -> None:
        self._pruning = None
        self._look_after()

    def _end_if_idle(self) -> None:
        try:
            if not self._ledger.is_empty():
                # Something waits of which no lane knows: have them look from the beginning.
                self._lanes.rewind()
                self._ring()
                return
            if not self._inbound.leave(self._let_go):
                self._ring()
                return
        except OutboxError as error:
            self._try_later(error)
            return
        log.info("nothing left to deliver; the relay ends")
        self._loop.stop()

    def _let_go(self) -> None:
        self._ledger.close()
        self._lock.release()

    def _on_stop(self, within: float | None = None) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._lanes.hold(True)
        self._loop.call_later(self._tuning.stop_timeout if within is None else within, self._loop.stop)
        self._settle_soon()

    def _mark_the_rest(self) -> None:
        if not self._lock.held:
            return  # It had nothing left to do, and others may write the ledger now.
        try:
            self._mark()
        except OutboxError as error:
            log.warning("%d deliveries can't be marked, and will be made again: %s", len(self._ended), error)
        except Exception:
            # Otherwise that is why it ends, and has been told.
            if self._failed is None:
                raise

    def _close_ledger(self) -> None:
        try:
            self._ledger.close()
        except OutboxError as error:
            log.warning("can't close the ledger, whose log the next relay takes up: %s", error)
