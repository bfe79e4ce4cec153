"""Finding the transport configuration that a client of this process would use."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from openlineage.client import OpenLineageClient
from openlineage.client.transport.noop import NoopConfig, NoopTransport

from keepline.config import TRANSPORT_TYPES, Settings


def client_transport(config: dict[str, Any] | None = None) -> dict[str, Any]:
    """The ``transport`` mapping that an OpenLineage client comes to, without building the transport.

    It is merged from the configuration given, ``openlineage.yml`` and ``OPENLINEAGE__*`` variables by the
    client itself (openlineage-python, ``client/client.py``, ``OpenLineageClient.config``).

    Args:
        config: what is handed to the client; ``None`` for nothing.
    """
    with _silent_about_its_transport():
        client = OpenLineageClient(transport=NoopTransport(NoopConfig()), config=copy.deepcopy(config))
    return dict(client.config.transport or {})


@contextmanager
def _silent_about_its_transport() -> Iterator[None]:
    # It says that it "will use `noop` transport": true of this client, and misleading in a scheduler's log.
    client_log = logging.getLogger(OpenLineageClient.__module__)

    def silent(record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO

    client_log.addFilter(silent)
    try:
        yield
    finally:
        client_log.removeFilter(silent)


def keepline_settings(transport: dict[str, Any]) -> Settings | None:
    """The settings in a transport configuration, or ``None`` when it isn't Keepline's.

    Args:
        transport: the ``transport`` mapping.

    Raises:
        ConfigError: a setting is wrong.
    """
    return Settings.from_dict(transport) if transport.get("type") in TRANSPORT_TYPES else None
