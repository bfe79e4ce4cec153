"""Emitting what was built as the provider's adapter does, but that a failure is not swallowed."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow.providers.openlineage import conf as openlineage_conf
from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import Job, Run, RunEvent, RunState

from keepline.airflow.reconcile.deciding import Decision, Emission, Expected
from keepline.airflow.reconcile.facet import NAME, PRODUCER, KeeplineReconciledRunFacet
from keepline.errors import ReconcileError
from keepline.transport import Transport

_NO_RUN = "00000000-0000-4000-8000-000000000000"


class Emitter:
    """Appends events to the outbox, through a client as the provider makes it.

    Raises:
        ReconcileError: the client's transport isn't Keepline's.
        Exception: what the provider or the client raises for a configuration that can't be read.
    """

    def __init__(self) -> None:
        adapter = OpenLineageAdapter()
        self._redact = adapter._redacter.redact
        self._client: OpenLineageClient = adapter.get_or_create_openlineage_client()
        if not isinstance(self._client.transport, Transport):
            raise ReconcileError(
                f"OpenLineage's transport here is {self._client.transport.kind!r}, not `keepline.Transport`; "
                "name that in `[openlineage] transport`"
            )

    def wants(self, job: str) -> bool:
        """Whether the client's own filters let a job's events through.

        Args:
            job: its name.
        """
        if not getattr(self._client, "_filters", None):
            return True
        event = RunEvent(
            eventType=RunState.START,
            eventTime=_iso(0.0),
            run=Run(_NO_RUN),
            job=Job(openlineage_conf.namespace(), job),
            producer=PRODUCER,
        )
        return self._client.filter_event(event) is not None

    def emit(
        self, event: RunEvent, expected: Expected, decision: Decision, one: Emission, now: float
    ) -> None:
        """Mark an event as reconciled, and emit it.

        Args:
            event: as built.
            expected: its run.
            decision: on the run.
            one: which of what was decided.
            now: s since 1970.

        Raises:
            ReconcileError: it isn't an event of that run.
            KeeplineError: it can't be appended.
        """
        if event.run.runId != expected.run_id:
            raise ReconcileError(f"the provider has built an event of run {event.run.runId}")
        if one.kind.value != "START" and expected.end_at is not None:
            # In a hook, it is the time when the hook is called.
            event.eventTime = _iso(expected.end_at)
        facet = KeeplineReconciledRunFacet(
            reconciledAt=_iso(now),
            missing=[kind.value for kind in decision.missing],
            repeated=one.repeated,
            detected=_detected(decision, one),
            airflowState=expected.state,
            producer=PRODUCER,
        )
        event.run.facets = {**(event.run.facets or {}), NAME: facet}
        self._client.emit(self._redact(event, max_depth=20))

    def close(self) -> None:
        """Let go of the client. What it has appended is safe."""
        self._client.close(0)


def _detected(decision: Decision, one: Emission) -> str:
    if one.repeated and not decision.missing:
        return "the outbox had this run's START behind its end"
    if one.repeated:
        return "the outbox had no START of this run, whose end is repeated behind it"
    return f"Airflow's metadata database has this run, and the outbox had no {one.kind.value} of it"


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).isoformat()
