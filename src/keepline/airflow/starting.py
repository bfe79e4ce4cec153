"""What a scheduler does for the outbox when it starts: a relay for what an earlier one has left there.

Imported only where it is needed: what it imports takes a while, and most of Airflow's processes are tasks.
"""

from __future__ import annotations

import logging

from keepline.airflow import configuration
from keepline.config import RelayMode
from keepline.relay.replacing import end_other
from keepline.transport import Transport, TransportConfig

log = logging.getLogger(__name__)


def reconcile_beside() -> None:
    """Have a process of its own emit what earlier schedulers should have, where that is wanted.

    Raises:
        OSError: it can't be started.
    """
    if configuration.reconcile_on_start():
        from keepline.airflow.reconcile.beside import start

        start()


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
