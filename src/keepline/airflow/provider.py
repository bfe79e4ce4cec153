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
                "options": _options(),
            }
        },
    }


def _options() -> dict[str, dict[str, Any]]:
    return {
        "disabled": _option(
            "boolean",
            "False",
            "Leave the OpenLineage provider's own listener and its process pool in place.",
        ),
        "stop_timeout": _option(
            "float",
            "5.0",
            "Seconds that a scheduler which stops waits for events of DAG runs that are still being built. "
            "What is built waits in the outbox and is never waited for.",
        ),
        "call_timeout": _option(
            "float",
            "60.0",
            "Seconds that a worker of the pool may take to build an event and to emit it. After that it is "
            "killed and replaced, and the event is built again; after two attempts it is set aside until a "
            "scheduler starts.",
        ),
        "spool": _option(
            "string",
            "",
            "The folder, on a local disk, for what hooks have submitted and no worker has built yet. Empty: "
            "``spool`` in the outbox's folder, or ``keepline/spool`` in Airflow's home where events don't go "
            "through an outbox.",
            example="/var/lib/airflow/keepline-spool",
        ),
        "task_emission": _option(
            "string",
            "thread",
            "How a task's events are extracted and emitted. ``thread``: by a thread of the task's process, "
            "which waits for it for ``[openlineage] execution_timeout`` at most. ``provider``: as the "
            "OpenLineage provider does, which forks the process, unless ``[openlineage] execute_in_thread`` "
            "(from 2.20 on) is true.",
            example="provider",
        ),
        "flush_timeout": _option(
            "float",
            "3.0",
            "Seconds that the process of a task waits at its end until its events have arrived, where it "
            "delivers them itself (``relay: inline``).",
        ),
        "reconcile_on_start": _option(
            "boolean",
            "False",
            "When a scheduler starts, compare Airflow's metadata database with the outbox, and emit the "
            "events of DAG runs and tasks that are missing, as ``keepline reconcile`` does. In a process of "
            "its own, a minute after the start.",
        ),
        "metrics_interval": _option(
            "float",
            "30.0",
            "Seconds between two reports of a scheduler to Airflow's metrics, on what waits in the outbox "
            "and how its destinations do; 0 for none. Nothing is reported unless ``[metrics]`` sends "
            "Airflow's own metrics somewhere.",
        ),
    }


def _option(kind: str, default: str, description: str, *, example: str | None = None) -> dict[str, Any]:
    return {
        "description": f"{description}\n",
        "version_added": "0.1.0",
        "type": kind,
        "example": example,
        "default": default,
    }
