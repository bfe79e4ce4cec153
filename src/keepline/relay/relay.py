"""The relay: takes events in from the journal and delivers them. It keeps no state of its own.

Killed at any instant, the next one goes on from what the outbox says; what was answered and not yet marked is
delivered twice. It sleeps on file descriptors and on the pauses of an outage.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from keepline.config import Settings
from keepline.destinations.base import Answer, Done
from keepline.destinations.curl import CurlLoop
from keepline.destinations.http import native
from keepline.destinations.legs import parse
from keepline.destinations.openlineage import DrivenDestination
from keepline.errors import OutboxError, RelayError
from keepline.outbox.files import OutboxFiles
from keepline.outbox.ledger import Ended, Ledger
from keepline.outbox.reader import is_full, read, retire
from keepline.outbox.segments import segment_numbers
from keepline.relay.bell import Bell, hang
from keepline.relay.lane import Lane
from keepline.relay.lock import RelayLock
from keepline.relay.policy import LaneState

log = logging.getLogger(__name__)

_BATCH = 500
_RETRY_SECONDS = 1.0
_PRUNE_EVERY = 60.0
_PRUNE_BATCH = 500


class Relay:
    """Delivers what one outbox holds, until it is told to stop or, if it may, has been idle for long.

    Args:
        settings: outbox, destinations and bounds.
        lock: the relay's lock of that outbox, held; the relay gives it back when it ends.
        ends_when_idle: whether it ends by itself when there is nothing left to do.

    Raises:
        OutboxError: the outbox can't be opened.
        RelayError: the journal can't be watched.
        Exception: a leg's settings are wrong; the client's own message.
    """

    def __init__(self, settings: Settings, lock: RelayLock, *, ends_when_idle: bool) -> None:
        self._settings = settings
        self._tuning = settings.tuning
        self._files = OutboxFiles(settings.outbox)
        self._lock = lock
        self._ends_when_idle = ends_when_idle
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._on_error)
        self._failed: BaseException | None = None
        self._ended: list[Ended] = []
        self._settling: asyncio.Handle | None = None
        self._taking: asyncio.Handle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._pruned_up_to = 0
        self._prune_at = 0.0
        self._stopping = False
        self._waiters: list[threading.Event] = []
        self._parsed = [parse(leg) for leg in settings.legs]
        self._ledger = Ledger(self._files)
        self._bell: Bell = hang(self._files.journal)
        self._curl = CurlLoop(self._loop, connections=self._tuning.max_connections * len(settings.legs))
        self._lanes = self._build_lanes()

    def _build_lanes(self) -> list[Lane]:
        ids = self._ledger.register([one.leg.name for one in self._parsed], LaneState.OPEN.value)
        lanes = []
        for parsed in self._parsed:
            name = parsed.leg.name
            lane = Lane(
                name, ids[name], self._ledger, self._tuning, self._ended.append, self._settle_soon, self._loop
            )
            done: Done = partial(self._on_answer, lane)
            lane.attach(
                native(parsed, self._curl, done, capacity=self._tuning.max_connections)
                or DrivenDestination(parsed, self._loop, done)
            )
            lanes.append(lane)
        return lanes

    def run(self) -> None:
        """Deliver until stopped. Everything is let go of when it returns, also after an error.

        Raises:
            RelayError: something nobody foresaw went wrong; nothing is lost.
        """
        try:
            self._loop.add_reader(self._bell.fileno(), self._on_bell)
            self._loop.call_soon(self._take_in)
            self._loop.run_forever()
        finally:
            self._close()
        if self._failed is not None:
            raise RelayError(f"the relay of {self._files.folder} failed; its log says why") from self._failed

    def stop(self) -> None:
        """Ask the relay to end, from any thread: no new tries, then a bounded wait for those under way."""
        try:
            self._loop.call_soon_threadsafe(self._on_stop)
        except RuntimeError:
            return  # It has ended already.

    def wait_idle(self, timeout: float) -> bool:
        """Wait, on another thread, until all that was appended before has ended.

        Args:
            timeout: longest wait, seconds; negative for no bound.

        Returns:
            whether it has.
        """
        waiter = threading.Event()

        def look() -> None:
            self._waiters.append(waiter)
            self._ring()

        try:
            self._loop.call_soon_threadsafe(look)
        except RuntimeError:
            return False
        return waiter.wait(None if timeout < 0 else timeout)

    def call_on_signal(self, signals: tuple[int, ...]) -> None:
        """End on these signals; only in a main thread."""
        for number in signals:
            self._loop.add_signal_handler(number, self._on_stop)

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # What nobody foresaw: end, so that the next relay begins again from what the outbox says.
        error = context.get("exception")
        log.error("the relay ends: %s", context.get("message"), exc_info=error)
        self._failed = error if isinstance(error, BaseException) else RelayError(str(context))
        loop.stop()

    def _on_bell(self) -> None:
        if not self._bell.silence():
            log.error("the journal's folder %s is gone; the relay ends", self._files.journal)
            self._on_stop()
            return
        self._ring()

    def _ring(self) -> None:
        if self._taking is None:
            self._taking = self._loop.call_soon(self._take_in)

    def _take_in(self) -> None:
        self._taking = None
        if self._stopping:
            return
        try:
            again = self._take_in_once()
            for lane in self._lanes:
                lane.pump()
        except OutboxError as error:
            log.warning("can't take events in, trying again in %g s: %s", _RETRY_SECONDS, error)
            self._taking = self._loop.call_later(_RETRY_SECONDS, self._take_in)
            return
        if again:
            # Through the loop, so that answers are taken between two batches.
            self._taking = self._loop.call_soon(self._take_in)
        self._look_after()

    def _take_in_once(self) -> bool:
        for number in segment_numbers(self._files):
            position = self._ledger.position(number)
            batch = read(self._files, number, position, limit=_BATCH)
            for damage in batch.damages:
                log.error(
                    "skipped %d bytes of segment %d at %d that hold no whole record",
                    damage.end - damage.position,
                    number,
                    damage.position,
                )
            if batch.position > position:
                self._ledger.take_in(batch, [lane.ident for lane in self._lanes])
                for lane in self._lanes:
                    lane.more()
            if batch.more:
                # Later segments wait, so that events are taken in in the order of appending.
                return True
            if is_full(self._files, number, self._tuning.segment_bytes) and retire(
                self._files, number, batch.position, lock_timeout=self._tuning.lock_timeout
            ):
                self._ledger.forget_segment(number)
        return False

    def _on_answer(self, lane: Lane, event: int, answer: Answer) -> None:
        lane.done(event, answer)
        self._settle_soon()

    def _settle_soon(self) -> None:
        if self._settling is None:
            # One transaction for all that was answered in this turn of the loop.
            self._settling = self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        self._settling = None
        try:
            self._mark()
            for lane in self._lanes:
                lane.hold(self._stopping)
                lane.pump()
        except OutboxError as error:
            log.warning("can't use the ledger, trying again in %g s: %s", _RETRY_SECONDS, error)
            for lane in self._lanes:
                # What is answered and can't be marked would be delivered again: begin nothing more.
                lane.hold(True)
            self._settling = self._loop.call_later(_RETRY_SECONDS, self._settle)
            return
        self._look_after()
        if self._stopping and not any(lane.busy for lane in self._lanes):
            self._loop.stop()

    def _mark(self) -> None:
        with self._ledger.transaction():
            if self._ended:
                self._ledger.end(self._ended, time.time())
            for lane in self._lanes:
                if lane.changed:
                    self._ledger.describe(lane.ident, state=lane.state.value, reason=lane.reason)
                if lane.last_answer_at is not None:
                    self._ledger.answered(lane.ident, lane.last_answer, lane.last_answer_at)
        self._ended.clear()
        for lane in self._lanes:
            lane.changed = False
            lane.last_answer_at = None

    def _look_after(self) -> None:
        self._prune()
        idle = all(lane.idle for lane in self._lanes) and self._taking is None and self._settling is None
        if idle:
            for waiter in self._waiters:
                waiter.set()
            self._waiters.clear()
        if not self._ends_when_idle:
            return
        if idle and self._idle_timer is None:
            self._idle_timer = self._loop.call_later(self._tuning.relay_idle, self._end_if_idle)
        elif not idle and self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _prune(self) -> None:
        now = time.monotonic()
        if now < self._prune_at:
            return
        try:
            before = time.time() - self._tuning.retention
            self._pruned_up_to = self._ledger.prune(before, self._pruned_up_to, _PRUNE_BATCH)
        except OutboxError as error:
            log.warning("can't prune the ledger: %s", error)
            self._pruned_up_to = 0
        if not self._pruned_up_to:
            self._prune_at = now + _PRUNE_EVERY

    def _end_if_idle(self) -> None:
        """End, in an order that leaves no append unseen.

        The newest segment is deleted under its lock, and the relay's lock given back before that one is. So
        an append either comes before, and is seen here, or opens a new segment afterwards, and then looks
        for a relay and finds none.
        """
        self._idle_timer = None
        try:
            if not self._ledger.is_empty():
                self._ring()
                return
            numbers = segment_numbers(self._files)
            for number in numbers:
                position = self._ledger.position(number)
                last = number == numbers[-1]
                gone = retire(
                    self._files,
                    number,
                    position,
                    lock_timeout=self._tuning.lock_timeout,
                    then=partial(self._let_go, number)
                    if last
                    else partial(self._ledger.forget_segment, number),
                )
                if not gone:
                    self._ring()
                    return
        except OutboxError as error:
            log.warning("can't end while idle: %s", error)
            self._look_after()
            return
        log.info("nothing left to deliver; the relay ends")
        self._loop.stop()

    def _let_go(self, segment: int) -> None:
        self._ledger.forget_segment(segment)
        self._ledger.close()
        self._lock.release()

    def _on_stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        for lane in self._lanes:
            lane.hold(True)
        self._loop.call_later(self._tuning.stop_timeout, self._loop.stop)
        self._settle_soon()

    def _close(self) -> None:
        # Destinations first: nothing may be answered once the ledger is closed. The lock last: whoever takes
        # it may write the ledger.
        for lane in self._lanes:
            lane.close(timeout=1.0)
        self._curl.close()
        self._bell.close()
        self._loop.close()
        if self._lock.held:
            try:
                self._mark()
            except OutboxError as error:
                log.warning("can't mark %d deliveries, which will be made again: %s", len(self._ended), error)
            self._ledger.close()
            self._lock.release()


def serve(settings: Settings, lock: RelayLock, *, ends_when_idle: bool, ready: Callable[[], None]) -> None:
    """Run a relay in this process's main thread until it is told to end by SIGTERM or SIGINT.

    Args:
        settings: what to deliver, and where to.
        lock: held.
        ends_when_idle: whether it ends by itself.
        ready: called when it is about to deliver.
    """
    relay = Relay(settings, lock, ends_when_idle=ends_when_idle)
    relay.call_on_signal((signal.SIGTERM, signal.SIGINT))
    ready()
    relay.run()
