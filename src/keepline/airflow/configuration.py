"""What Airflow is configured to do with OpenLineage, and with Keepline."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import conf
from airflow.providers.openlineage import conf as openlineage_conf
from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter

from keepline.config import Settings
from keepline.discovery import client_transport, keepline_settings
from keepline.errors import ConfigError

log = logging.getLogger(__name__)

_SECTION = "keepline"
_STOP_TIMEOUT = 5.0  # seconds
_CALL_TIMEOUT = 60.0
_FLUSH_TIMEOUT = 3.0
_METRICS_INTERVAL = 30.0
_LONGEST_INTERVAL = 86400.0
_SPOOL = "spool"


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
    return _seconds("stop_timeout", _STOP_TIMEOUT, least=0.0)


def call_timeout() -> float:
    """Seconds that a worker may take to build and emit an event; the default where the option is wrong."""
    return _seconds("call_timeout", _CALL_TIMEOUT, least=1.0)


def flush_timeout() -> float:
    """Seconds that a task's process may wait for its deliveries; the default where the option is wrong."""
    return _seconds("flush_timeout", _FLUSH_TIMEOUT, least=0.0)


def _seconds(option: str, default: float, *, least: float) -> float:
    value = conf.get(_SECTION, option, fallback=str(default))
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if least <= seconds < float("inf"):
        return seconds
    text = "keepline setting `[keepline] %s` is %r, not a number of seconds, %g or more; %g is used"
    log.warning(text, option, value, least, default)
    return default


def spool_folder() -> Path:
    """Where the pool keeps what hooks have submitted: as set, or in the outbox, or in Airflow's home."""
    named = conf.get(_SECTION, _SPOOL, fallback="") or ""
    if named.strip():
        return Path(named.strip()).expanduser().absolute()
    try:
        keepline = settings()
    except Exception as error:  # a worker will tell what is wrong, when it emits
        log.debug("The spool isn't in the outbox: %s", error)
        keepline = None
    if keepline is not None:
        return keepline.outbox / _SPOOL
    home = os.environ.get("AIRFLOW_HOME") or "~/airflow"
    return Path(home).expanduser().absolute() / "keepline" / _SPOOL


def metrics_go_somewhere() -> bool:
    """Whether Airflow's metrics are configured to be sent."""
    return bool(_metrics_backend())


def metrics_interval() -> float:
    """Seconds between two reports to Airflow's metrics; 0 for none."""
    value = conf.get(_SECTION, "metrics_interval", fallback=str(_METRICS_INTERVAL))
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if seconds == 0 or 1 <= seconds <= _LONGEST_INTERVAL:
        return seconds
    log.warning(
        "keepline setting `[keepline] metrics_interval` is %r, not a number of seconds, 1 or more, or 0 for "
        "none; %g is used",
        value,
        _METRICS_INTERVAL,
    )
    return _METRICS_INTERVAL


def metrics_have_tags() -> bool:
    """Whether the tags of a metric get to where Airflow's metrics go."""
    backend = _metrics_backend()
    if backend == "otel":
        # On Airflow 2 a gauge has one value there, whatever its tags (apache/airflow, pull request 46510).
        return not airflow_version.startswith("2.")
    option, default = ("statsd_datadog_metrics_tags", True)
    if backend == "statsd":
        option, default = ("statsd_influxdb_enabled", False)
    return bool(conf.getboolean("metrics", option, fallback=default))


def _metrics_backend() -> str:
    # The first in Airflow's own order (airflow, stats.py and observability/metrics/stats_utils.py).
    options = {"datadog": "statsd_datadog_enabled", "statsd": "statsd_on", "otel": "otel_on"}
    on = (name for name, option in options.items() if conf.getboolean("metrics", option, fallback=False))
    return next(on, "")


def tasks_emit_in_thread() -> bool:
    """Whether tasks are to emit in a thread, or else as the provider does; true where the option is wrong."""
    value = str(conf.get(_SECTION, "task_emission", fallback="thread")).strip().lower()
    if value not in ("thread", "provider"):
        log.warning(
            "keepline setting `[keepline] task_emission` is %r, neither thread nor provider; thread is used",
            value,
        )
    return value != "provider"


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
