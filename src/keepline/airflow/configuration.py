"""What Airflow is configured to do with OpenLineage, and with Keepline."""

from __future__ import annotations

import logging

from airflow.providers.common.compat.sdk import conf
from airflow.providers.openlineage import conf as openlineage_conf
from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter

from keepline.config import Settings
from keepline.discovery import client_transport, keepline_settings
from keepline.errors import ConfigError

log = logging.getLogger(__name__)

_SECTION = "keepline"
_STOP_TIMEOUT = 5.0  # seconds


def is_enabled() -> bool:
    """Whether OpenLineage is enabled, and Keepline isn't told to stay out of it.

    Raises:
        ConfigError: Keepline's option is neither true nor false.
        Exception: what the provider raises where its configuration can't be read.
    """
    try:
        disabled = conf.getboolean(_SECTION, "disabled", fallback=False)
    except Exception:  # Airflow's error has another class in each version
        value = conf.get(_SECTION, "disabled", fallback="")
        raise ConfigError("[keepline] disabled", value, "true or false") from None
    return not disabled and not openlineage_conf.is_disabled()


def reconcile_on_start() -> bool:
    """Whether a scheduler that starts has what is missing emitted; not where the option is wrong."""
    try:
        return bool(conf.getboolean(_SECTION, "reconcile_on_start", fallback=False))
    except Exception:  # Airflow's error has another class in each version
        value = conf.get(_SECTION, "reconcile_on_start", fallback="")
        log.warning("keepline setting `[keepline] reconcile_on_start` is %r, not true or false", value)
        return False


def stop_timeout() -> float:
    """Seconds that stopping may wait for the pool; the default where the option is wrong."""
    value = conf.get(_SECTION, "stop_timeout", fallback=str(_STOP_TIMEOUT))
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if 0 <= seconds < float("inf"):
        return seconds
    log.warning(
        "keepline setting `[keepline] stop_timeout` is %r, not a number of seconds, 0 or more; %g is used",
        value,
        _STOP_TIMEOUT,
    )
    return _STOP_TIMEOUT


def pool_size() -> int:
    """How many workers the pool may have: the provider's own option, or 1 where that is wrong."""
    try:
        return max(int(openlineage_conf.dag_state_change_process_pool_size()), 1)
    except Exception as error:  # Airflow's error has another class in each version
        log.warning("[openlineage] dag_state_change_process_pool_size can't be used (%s); 1 is used", error)
        return 1


def settings() -> Settings | None:
    """Keepline's settings as the provider would hand them to the client; ``None`` for another transport.

    Raises:
        ConfigError: a setting is wrong.
        Exception: what the provider raises where its configuration can't be read.
    """
    return keepline_settings(client_transport(OpenLineageAdapter().get_openlineage_config()))
