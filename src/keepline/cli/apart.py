"""The settings of this environment, found without keeping what they were found with: the client, Airflow."""

from __future__ import annotations

import json
import logging
import sys

from keepline import config
from keepline.apart import apart
from keepline.cli.common import settings_for
from keepline.config import Settings

_FIND_SECONDS = 120.0


def settings_apart(option: str | None) -> Settings | None:
    """As :func:`keepline.cli.common.settings_for`, for a process that goes on to live long.

    Args:
        option: what ``--outbox`` says.

    Raises:
        ConfigError: a setting is wrong.
        Exception: what the client or Airflow raises for a configuration that can't be read.
    """

    def work() -> str:
        # What it says of settings that are not known is said where they are parsed again.
        logging.getLogger(config.__name__).addFilter(lambda record: False)
        settings = settings_for(option)
        found = None if settings is None else json.loads(settings.to_json())
        return json.dumps({"settings": found, "path": sys.path})

    text = apart(work, seconds=_FIND_SECONDS)
    if text is None:
        return settings_for(option)
    told = json.loads(text)
    # A user's own transport may stand in a folder that only Airflow adds, such as that of its plugins.
    sys.path.extend(entry for entry in told["path"] if entry not in sys.path)
    return None if told["settings"] is None else Settings.from_dict(told["settings"])
