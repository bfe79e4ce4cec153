"""What Airflow is configured to do with OpenLineage, and with Keepline."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import conf
from airflow.providers.openlineage import conf as openlineage_conf
from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter

from keepline.config import Settings
from keepline.discovery import client_transport, keepline_settings
from keepline.errors import ConfigError

_SECTION = "keepline"


def is_enabled() -> bool:
    """Whether OpenLineage is enabled, and Keepline isn't told to stay out of it."""
    if conf.getboolean(_SECTION, "disabled", fallback=False):
        return False
    return not openlineage_conf.is_disabled()


def stop_timeout() -> float:
    """Seconds that stopping may wait for the pool.

    Raises:
        ConfigError: the option isn't a number of seconds.
    """
    value = conf.get(_SECTION, "stop_timeout", fallback="5.0")
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError("[keepline] stop_timeout", value, "a number of seconds, 0 or more")
    return seconds


def pool_size() -> int:
    """How many workers the pool may have: the provider's own option."""
    return max(int(openlineage_conf.dag_state_change_process_pool_size()), 1)


def settings() -> Settings | None:
    """Keepline's settings as the provider would hand them to the client; ``None`` for another transport.

    Raises:
        ConfigError: a setting is wrong.
        Exception: what the provider raises where its configuration can't be read.
    """
    return keepline_settings(client_transport(OpenLineageAdapter().get_openlineage_config()))
