"""The run facet that marks what was reconciled, by OpenLineage's rules for custom facets.

Source: OpenLineage, "Custom Facets": https://openlineage.io/docs/spec/facets/custom-facets
"""

from __future__ import annotations

from typing import ClassVar

import attr
from openlineage.client.facet_v2 import RunFacet

from keepline import __version__

NAME = "keepline_reconciled"
PRODUCER = f"pkg:pypi/keepline@{__version__}"
"""This package and version, as a package URL: names no host, and stays true."""
SCHEMA_FILE = "KeeplineReconciledRunFacet.json"
"""The schema, beside this module."""


@attr.define
class KeeplineReconciledRunFacet(RunFacet):
    """Says of an event that it was emitted afterwards.

    Args:
        reconciledAt: when, ISO 8601.
        missing: types of the run's events that the outbox didn't have.
        repeated: whether the outbox had this one, and it is emitted again to stand behind the START.
        detected: how it was found out, in words.
        airflowState: in Airflow's database.
    """

    reconciledAt: str  # noqa: N815 - facets are written so
    missing: list[str]
    repeated: bool
    detected: str
    airflowState: str  # noqa: N815

    # Nothing in it can be a secret.
    _additional_skip_redact: ClassVar[list[str]] = [
        "reconciledAt",
        "missing",
        "repeated",
        "detected",
        "airflowState",
    ]

    @staticmethod
    def _get_schema() -> str:
        return f"{PRODUCER}#keepline/airflow/reconcile/{SCHEMA_FILE}"
