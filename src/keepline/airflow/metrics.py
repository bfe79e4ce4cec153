"""Metrics from the scheduler, through Airflow's own: where they go, Airflow's configuration says.

Nothing is started unless they go somewhere. Then one thread sleeps most of the time. It doesn't look at the
outbox itself: SQLite, and files that are being opened, are nothing to have at hand in a process that forks at
any moment, and a disk that doesn't answer would hold up each fork. A process of its own looks, for some tens
of milliseconds of processor time, and is killed where it takes too long.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path

import keepline
from keepline.airflow import configuration
from keepline.airflow.gauges import Gauge, Gauges, of_no_outbox, of_outbox, of_pool
from keepline.airflow.guard import tell
from keepline.errors import OutboxUnavailable
from keepline.pool import Pool
from keepline.relay.glance import Glance

try:
    # From Airflow 3.2 on there are two, and this is the one that a scheduler initialises; what
    # airflow.providers.common.compat.sdk offers is the tasks' own, which goes nowhere here.
    from airflow.observability.stats import Stats
except ImportError:
    from airflow.stats import Stats

log = logging.getLogger(__name__)

_LOOK = "import sys; sys.path.insert(0, sys.argv.pop(1)); from keepline.relay.glance import main; main()"
_LOOK_SECONDS = 10.0
_END_SECONDS = 1.0
_FORK_SECONDS = 0.05

_reporter: Reporter | None = None
# Held while values are handed over: what Airflow's metrics lock then, a forked child would find locked.
_sending = threading.Lock()
_forking = threading.local()


def begin(pool: Callable[[], Pool | None]) -> None:
    """Send metrics from now on, if that is wanted and this process doesn't yet.

    Args:
        pool: gives the listener's pool, if there is one.
    """
    global _reporter
    if _reporter is not None:
        return
    try:
        interval = configuration.metrics_interval()
        settings = configuration.settings() if interval else None
        if settings is not None:
            gauges = Gauges(_send, tagged=configuration.metrics_have_tags())
            folders = (settings.outbox, configuration.spool_folder())
            _reporter = Reporter(folders, interval, gauges, pool)
            _reporter.start()
    except Exception as error:
        tell(log, "keepline can't send metrics", error)


def _send(name: str, value: float, **tags: dict[str, str]) -> None:
    # By its name each time: what is behind it, Airflow sets up when it likes.
    Stats.gauge(name, value, **tags)


def end() -> None:
    """Send no more; takes a second at most."""
    global _reporter
    reporter, _reporter = _reporter, None
    if reporter is not None:
        reporter.stop()


class Reporter:
    """The thread that sends.

    Args:
        folders: to look at: the outbox, and that of the spools.
        interval: seconds between two looks. The first comes after one: a scheduler sets up its metrics after
            its listeners were told that it starts.
        gauges: take the values.
        pool: gives the listener's pool, if there is one.
    """

    def __init__(
        self, folders: tuple[Path, Path], interval: float, gauges: Gauges, pool: Callable[[], Pool | None]
    ) -> None:
        self._outbox, self._spools = folders
        self._interval = interval
        self._gauges = gauges
        self._pool = pool
        self._stopped = threading.Event()
        self._looking: subprocess.Popen[str] | None = None
        self._wrong = ""
        self._thread = threading.Thread(target=self._run, name="keepline-metrics", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, within a second."""
        self._stopped.set()
        self._kill()
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                self._report()
            except Exception as error:
                self._complain("keepline could not send metrics", error)

    def _report(self) -> None:
        found: Iterable[Gauge]
        try:
            found = of_outbox(self._look())
            if self._wrong:
                log.info("keepline's metrics have the outbox again")
            self._wrong = ""
        except Exception as error:
            if self._stopped.is_set():
                return
            self._complain("keepline's metrics lack the outbox", error)
            found = of_no_outbox()
        with _sending:
            self._gauges.set(chain(found, of_pool(self._pool())))

    def _look(self) -> Glance:
        if self._looking is not None and self._looking.poll() is None:
            raise OutboxUnavailable(f"the last look at {self._outbox} has not come to an end")
        root = str(Path(keepline.__file__).parent.parent)
        folders = (str(self._outbox), str(self._spools))
        self._looking = subprocess.Popen(
            [sys.executable, "-c", _LOOK, root, *folders, str(_LOOK_SECONDS)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            cwd="/",
            text=True,
            start_new_session=True,  # a Ctrl-C is the scheduler's business
        )
        if self._stopped.is_set():
            self._kill()
        try:
            text, _ = self._looking.communicate(timeout=_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
            raise OutboxUnavailable(f"{self._outbox} gives no answer within {_LOOK_SECONDS:g} s") from None
        if not text:
            raise OutboxUnavailable(
                f"the look at {self._outbox} has ended with status {self._looking.returncode}"
            )
        told = json.loads(text)
        if "error" in told:
            raise OutboxUnavailable(told["error"])
        return Glance.from_json(text)

    def _kill(self) -> None:
        # Not waited for: one that a dead disk holds ends with it. The next look collects it.
        if self._looking is not None:
            with suppress(OSError):
                self._looking.kill()

    def _complain(self, what: str, error: Exception) -> None:
        # Once, until it is well again, or something else is wrong.
        if str(error) != self._wrong:
            self._wrong = str(error)
            tell(log, what, error)


def _before_fork() -> None:
    _forking.held = _sending.acquire(timeout=_FORK_SECONDS)


def _after_fork() -> None:
    if _forking.held:
        _sending.release()


def _begin_child() -> None:
    # It has no such thread; nor does it stop its parent's.
    global _reporter, _sending
    _reporter, _sending = None, threading.Lock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_begin_child)
