"""The plugin: puts Keepline's listener in the provider's place, where OpenLineage is enabled."""

from __future__ import annotations

import logging
from typing import Any

from airflow.providers.common.compat.sdk import AirflowPlugin

log = logging.getLogger(__name__)


def install() -> bool:
    """Give the provider's listener Keepline's class.

    The object stays the same, so whatever holds it (the plugin that registers it, Spark injection, the API
    for manual emission) has Keepline's behaviour, and it is registered once. Calling this again changes
    nothing.

    Returns:
        whether Keepline's listener is in place.
    """
    from keepline.airflow.configuration import is_enabled

    if not is_enabled():
        return False
    from airflow.providers.openlineage.plugins.listener import OpenLineageListener, get_openlineage_listener

    from keepline.airflow.listener import KeeplineListener

    listener = get_openlineage_listener()
    if type(listener) is OpenLineageListener:
        listener.__class__ = KeeplineListener
    return isinstance(listener, KeeplineListener)


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
            log.warning(
                "keepline could not take the OpenLineage listener's place (%s); "
                "events are emitted as without it",
                error,
            )
            log.debug("the failure was", exc_info=True)
