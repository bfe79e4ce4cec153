"""The environment of a sandbox: an Airflow that keeps to its folder and the loopback, and wastes no time."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

# Nothing else is inherited: a user's own Airflow, OpenLineage or proxy settings would reach into the sandbox.
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


def settings(home: Path, python: Path, version: str, api_port: int) -> dict[str, str]:
    """Make the environment of every process of a sandbox.

    Args:
        home: the sandbox's folder.
        python: the interpreter of the environment with Airflow.
        version: of that Airflow.
        api_port: where the API server will listen.

    """
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    path = f"{python.parent}{os.pathsep}{inherited.get('PATH', os.defpath)}"  # 2.11's executor runs `airflow`
    common: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": home / "dags",
            "load_examples": False,
            "dags_are_paused_at_creation": False,
            # LocalExecutor of 3.x forks all its workers when it starts, 32 by default.
            "parallelism": 2,
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}"},
        "logging": {"base_log_folder": home / "logs", "colored_console_log": False},
        "usage_data_collection": {"enabled": False},
        "scheduler": {
            # By default a scheduler that finishes runs but starts no task sleeps a second after 20 of them.
            "scheduler_idle_sleep_time": 0.1,
            "max_dagruns_per_loop_to_schedule": 50,
        },
    }
    of_version = _version_2() if version.startswith("2.") else _version_3(api_port)
    return {
        **inherited,
        "PATH": path,
        "HOME": str(home),  # where the OpenLineage client would look for a user's openlineage.yml
        "AIRFLOW_HOME": str(home),
        **_variables(common),
        **_variables(of_version),
    }


def _version_2() -> dict[str, dict[str, object]]:
    return {
        "core": {"executor": "SequentialExecutor"},  # the only one that 2.11 lets work on SQLite
        "scheduler": {
            # No DAG file changes here, nobody parses them: they are serialised once, and mustn't grow stale.
            "standalone_dag_processor": True,
            "dag_stale_not_seen_duration": 10**8,
        },
    }


def _version_3(api_port: int) -> dict[str, dict[str, object]]:
    url = f"http://127.0.0.1:{api_port}"
    return {
        "core": {
            "executor": "LocalExecutor",
            "execution_api_server_url": f"{url}/execution/",
            "simple_auth_manager_all_admins": True,
        },
        "api": {"base_url": url, "host": "127.0.0.1", "port": api_port, "workers": 1},
        # The scheduler signs what the API server checks.
        "api_auth": {"jwt_secret": secrets.token_urlsafe(48)},
    }


def _variables(sections: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    return {
        f"AIRFLOW__{section}__{key}".upper(): str(value)
        for section, options in sections.items()
        for key, value in options.items()
    }
