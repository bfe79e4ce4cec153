"""What Airflow's provider manager is told of Keepline.

Source: Airflow, "Custom provider packages", ``airflow/provider_info.schema.json``.
"""

from __future__ import annotations

from typing import Any

from keepline import __version__


def get_provider_info() -> dict[str, Any]:
    """The provider's name, and the options of ``[keepline]`` with their defaults.

    The plugin is registered by its entry point alone: a second registration makes Airflow 3 stop loading
    plugins.
    """
    return {
        "package-name": "keepline",
        "name": "Keepline",
        "description": "OpenLineage that never leaks, never blocks and never loses an event.",
        "versions": [__version__],
        "config": {
            "keepline": {
                "description": (
                    "How Keepline takes part in Airflow's OpenLineage integration. Where events go, and "
                    "through which outbox, is set in ``[openlineage] transport``.\n"
                ),
                "options": {
                    "disabled": {
                        "description": (
                            "Leave the OpenLineage provider's own listener and its process pool in place.\n"
                        ),
                        "version_added": "0.1.0",
                        "type": "boolean",
                        "example": None,
                        "default": "False",
                    },
                    "reconcile_on_start": {
                        "description": (
                            "When a scheduler starts, compare Airflow's metadata database with the outbox, "
                            "and emit the events of DAG runs and tasks that are missing, as ``keepline "
                            "reconcile`` does. In a process of its own, a minute after the start.\n"
                        ),
                        "version_added": "0.1.0",
                        "type": "boolean",
                        "example": None,
                        "default": "False",
                    },
                    "stop_timeout": {
                        "description": (
                            "Seconds that a scheduler which stops waits for events of DAG runs that are "
                            "still being built. What is built waits in the outbox and is never waited for.\n"
                        ),
                        "version_added": "0.1.0",
                        "type": "float",
                        "example": None,
                        "default": "5.0",
                    },
                },
            }
        },
    }
