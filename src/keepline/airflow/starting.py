"""What a scheduler does for what earlier ones have left when it starts: a worker, and a relay.

Imported only where it is needed: what it imports takes a while, and most of Airflow's processes are tasks.
"""

from __future__ import annotations

import logging

from keepline.airflow import configuration
from keepline.airflow.guard import tell
from keepline.config import RelayMode
from keepline.errors import KeeplineError
from keepline.pool import Pool
from keepline.relay.replacing import end_other
from keepline.transport import Transport, TransportConfig

log = logging.getLogger(__name__)


def adopt_spools(pool: Pool) -> None:
    """Have a pool carry out what hooks of dead processes had submitted, and what was set aside.

    A failure is logged: what can't be adopted now stays for the next start.

    Args:
        pool: the listener's.
    """
    try:
        adopted = pool.adopt()
    except (KeeplineError, OSError) as error:
        tell(log, "Events that an earlier process had submitted can't be taken over", error)
    else:
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
