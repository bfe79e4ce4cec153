"""OpenLineage for Apache Airflow that never leaks, never blocks and never loses an event.

Users name one thing of this package: ``keepline.Transport``, in their OpenLineage configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from keepline.transport import Transport

__all__ = ["Transport", "__version__"]


def __getattr__(name: str) -> object:
    """Import ``Transport`` when it is asked for, so that commands need not load the OpenLineage client."""
    if name == "Transport":
        from keepline.transport import Transport

        return Transport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
