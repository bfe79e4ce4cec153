"""The plugin: puts Keepline's listener in the provider's place, where OpenLineage is enabled."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

try:
    from airflow.providers.common.compat.sdk import AirflowPlugin
except ImportError:  # older than the OpenLineage provider needs, which then isn't there, or won't work
    from airflow.plugins_manager import AirflowPlugin

log = logging.getLogger(__name__)


def install() -> bool:
    """Give the provider's listener Keepline's class.

    The object stays the same, so whatever holds it (the plugin that registers it, Spark injection, the API
    for manual emission) has Keepline's behaviour, and it is registered once. Calling this again changes
    nothing.

    Returns:
        whether Keepline's listener is in place.
    """
    if find_spec("airflow.providers.openlineage") is None:
        return False
    from keepline.airflow.configuration import is_enabled

    if not is_enabled():
        return False
    from airflow.providers.openlineage.plugins.listener import OpenLineageListener, get_openlineage_listener

    from keepline.airflow.listener import KeeplineListener
    from keepline.airflow.measuring import spare_events

    listener = get_openlineage_listener()
    if isinstance(listener, KeeplineListener):
        return True
    # Another's subclass may have plans of its own; a provider to come may no longer call what is overridden.
    if type(listener) is not OpenLineageListener or not KeeplineListener.fits(OpenLineageListener):
        log.warning(
            "keepline doesn't know this OpenLineage listener, %s.%s, and leaves it as it is",
            type(listener).__module__,
            type(listener).__qualname__,
        )
        return False
    KeeplineListener.take_over(listener)
    spare_events()
    return True


class KeeplinePlugin(AirflowPlugin):
    """Loaded by Airflow through its entry point, before listeners are registered."""

    name = "keepline"

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:
        """Install the listener; a failure leaves the provider's own in place.

        Args:
            args: none are given today.
            kwargs: none are given today.
        """
        try:
            install()
        except Exception as error:
            # Here, so that a process without OpenLineage imports next to nothing.
            from keepline.airflow.guard import tell

            tell(
                log,
                "keepline could not take the OpenLineage listener's place, events are emitted as without it",
                error,
            )
