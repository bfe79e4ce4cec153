"""An operator with lineage of its own, one whose lineage a custom extractor tells, and a custom run facet."""

from __future__ import annotations

from typing import Any

from airflow.providers.openlineage.extractors.base import BaseExtractor, OperatorLineage
from attrs import define
from openlineage.client.event_v2 import Dataset
from openlineage.client.facet_v2 import JobFacet, RunFacet, documentation_dataset, schema_dataset

from parity_support.versions import BaseOperator


@define
class MoodRunFacet(RunFacet):
    """A run facet that no one else has."""

    mood: str
    task: str
    numbers: list[float]


@define
class PlanJobFacet(JobFacet):
    """A job facet that no one else has."""

    plan: dict[str, Any]


def _dataset(name: str) -> Dataset:
    fields = [
        schema_dataset.SchemaDatasetFacetFields(name="id", type="bigint"),
        schema_dataset.SchemaDatasetFacetFields(name="größe", type="numeric", description="in µm, 単位"),
    ]
    return Dataset(
        namespace="parity://host",
        name=name,
        facets={
            "schema": schema_dataset.SchemaDatasetFacet(fields=fields),
            "documentation": documentation_dataset.DocumentationDatasetFacet(
                description="naïve „quotes“ \u2028"
            ),
        },
    )


class SpeakingOperator(BaseOperator):
    """Tells its lineage itself: at its start, its success and its failure."""

    def __init__(self, *, fail: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.fail = fail

    def execute(self, context: Any) -> str:
        if self.fail:
            raise ValueError("spoke too soon: Ω ≠ 0")
        return "spoken"

    def get_openlineage_facets_on_start(self) -> OperatorLineage:
        return OperatorLineage(inputs=[_dataset("spoken.in")], run_facets={"mood": self._mood("start")})

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage:
        return OperatorLineage(
            inputs=[_dataset("spoken.in")],
            outputs=[_dataset("spoken.out")],
            run_facets={"mood": self._mood("complete")},
            job_facets={"plan": PlanJobFacet(plan={"steps": [1, 2.5, None, True, {"größe": "große"}]})},
        )

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> OperatorLineage:
        return OperatorLineage(inputs=[_dataset("spoken.in")], run_facets={"mood": self._mood("failure")})

    def _mood(self, mood: str) -> MoodRunFacet:
        return MoodRunFacet(mood=mood, task=self.task_id, numbers=[0.1, 1e300, -2.0])


class SilentOperator(BaseOperator):
    """Tells nothing; an extractor speaks for it."""

    def execute(self, context: Any) -> None:
        """Do nothing."""


class SilentExtractor(BaseExtractor):
    """What the option ``extractors`` names."""

    @classmethod
    def get_operator_classnames(cls) -> list[str]:
        return ["SilentOperator"]

    def _execute_extraction(self) -> OperatorLineage:
        return OperatorLineage(inputs=[_dataset("silent.in")])

    def extract_on_complete(self, task_instance: Any) -> OperatorLineage:
        return OperatorLineage(
            inputs=[_dataset("silent.in")], outputs=[_dataset(f"silent.{task_instance.task_id}")]
        )


class UnwantedOperator(BaseOperator):
    """What the option ``disabled_for_operators`` names."""

    def execute(self, context: Any) -> None:
        """Do nothing."""


def mood_facet(task_instance: Any, state: Any) -> dict[str, RunFacet]:
    """What the option ``custom_run_facets`` names."""
    return {"parity_mood": MoodRunFacet(mood=f"{state} 🙂", task=task_instance.task_id, numbers=[1.0, 2.0])}
