"""What a scheduler does when it starts: for what earlier ones have left, and to be seen.

Imported only where it is needed: what it imports takes a while, and most of Airflow's processes are tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from keepline.airflow import configuration
from keepline.airflow.early import have_worker
from keepline.airflow.guard import tell
from keepline.config import RelayMode
from keepline.pool import Pool
from keepline.relay.replacing import end_other
from keepline.transport import Transport, TransportConfig

log = logging.getLogger(__name__)


def begin(pool: Pool, living: Callable[[], Pool | None]) -> None:
    """Do all of it; what fails is logged, and keeps nothing else from being done.

    Args:
        pool: the listener's.
        living: gives the listener's pool as long as it has one.
    """
    for what, step in (
        ("take over the events that an earlier process had submitted", partial(adopt_spools, pool)),
        ("have a pool worker before SQLite is open", partial(have_worker, pool)),
        ("look after the relay", look_after_relay),
        ("send metrics", partial(send_metrics, living)),
        ("reconcile", reconcile_beside),
    ):
        try:
            step()
        except Exception as error:
            tell(log, f"keepline can't {what}", error)


def adopt_spools(pool: Pool) -> None:
    """Have a pool carry out what hooks of dead processes had submitted, and what was set aside.

    What can't be adopted now stays for the next start.

    Args:
        pool: the listener's.

    Raises:
        PoolError: the pool can't be started.
        OSError: a spool can't be read.
    """
    adopted = pool.adopt()
    if adopted:
        log.info("keepline: %d events that an earlier process had submitted are emitted now", adopted)


def look_after_relay() -> None:
    """Start a relay if something waits; replace one that has other settings or is of another version.

    Without this, what an earlier scheduler left would wait for the next event, and a lane that is paused over
    a wrong key would stay so when the key is right. Takes some ms, or up to 6 s when a relay that is replaced
    has requests under way.

    Raises:
        KeeplineError: a setting is wrong, the outbox can't be used, or a relay can't be ended.
        Exception: what the provider or the client raises for a configuration that can't be read.
    """
    settings = configuration.settings()
    if settings is None or settings.relay is not RelayMode.AUTO:
        return
    replaced = end_other(settings)
    if replaced is not None:
        log.info("keepline: the relay (pid %d) had other settings and is replaced", replaced.pid)
    Transport(TransportConfig.from_dict(dict(settings.raw))).wake()


def send_metrics(pool: Callable[[], Pool | None]) -> None:
    """Have Airflow's metrics tell of the outbox, where they are sent anywhere.

    Args:
        pool: gives the listener's pool, if there is one.

    Raises:
        Exception: what Airflow raises for options of its metrics that can't be read.
    """
    if configuration.metrics_go_somewhere():
        from keepline.airflow import metrics

        metrics.begin(pool)


def reconcile_beside() -> None:
    """Have a process of its own emit what earlier schedulers should have, where that is wanted.

    Raises:
        OSError: it can't be started.
    """
    if configuration.reconcile_on_start():
        from keepline.airflow.reconcile.beside import start

        start()
