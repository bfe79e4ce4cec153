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
_FLUSH_TIMEOUT = 3.0


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


def stop_timeout() -> float:
    """Seconds that stopping may wait for the pool; the default where the option is wrong."""
    return _seconds("stop_timeout", _STOP_TIMEOUT)


def flush_timeout() -> float:
    """Seconds that a task's process may wait for its deliveries; the default where the option is wrong."""
    return _seconds("flush_timeout", _FLUSH_TIMEOUT)


def _seconds(option: str, default: float) -> float:
    value = conf.get(_SECTION, option, fallback=str(default))
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if 0 <= seconds < float("inf"):
        return seconds
    log.warning(
        "keepline setting `[keepline] %s` is %r, not a number of seconds, 0 or more; %g is used",
        option,
        value,
        default,
    )
    return default


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
