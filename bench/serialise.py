"""What it costs to turn an event into JSON: keepline's serialise and the client's Serde, side by side.

Two events as Airflow's provider builds them (a task's start, a task's completion) are written by both in
turn, so that whatever else the machine does hits both alike. Times are microseconds a call.

    python bench/serialise.py [--rounds 5000] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from typing import TYPE_CHECKING, Any

import attr
import orjson
from figures import Numbers, Table, run, told
from openlineage.client.constants import __version__ as client_version
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    JobFacet,
    RunFacet,
    column_lineage_dataset,
    documentation_job,
    job_type_job,
    ownership_job,
    parent_run,
    processing_engine_run,
    schema_dataset,
    sql_job,
)
from openlineage.client.serde import Serde

from keepline.event import serialise

if TYPE_CHECKING:
    from collections.abc import Callable

NUMBERS: Numbers = {"rounds": (5_000, 100, "calls of each for each event")}
RUN_ID = "0190a0b1-0000-7000-8000-000000000001"
DAG_RUN_ID = "0190a0b1-0000-7000-8000-000000000002"
PRODUCER = "https://github.com/apache/airflow/tree/providers-openlineage/2.20.3"


@attr.define
class AirflowRunFacet(RunFacet):
    """As the provider's facet of this name."""

    dag: dict[str, Any]
    dagRun: dict[str, Any]  # noqa: N815 - the provider's name
    task: dict[str, Any]
    taskInstance: dict[str, Any]  # noqa: N815 - the provider's name
    taskUuid: str  # noqa: N815 - the provider's name


class Info(dict[str, Any]):
    """As the provider's InfoJsonEncodable: a dict by inheritance."""


def airflow_facet() -> AirflowRunFacet:
    return AirflowRunFacet(
        dag=Info(
            dag_id="orders_daily",
            fileloc="/opt/airflow/dags/orders_daily.py",
            owner="data-platform",
            schedule_interval=None,
            start_date="2026-01-01T00:00:00+00:00",
            tags="['orders', 'daily']",
            timetable={"delta": 86400.0},
            timetable_summary="1 day, 0:00:00",
        ),
        dagRun=Info(
            conf={},
            dag_id="orders_daily",
            external_trigger=None,
            run_id="scheduled__2026-01-01T00:00:00+00:00",
            run_type="scheduled",
            start_date="2026-01-02T00:00:01.123456+00:00",
            end_date=None,
            clear_number=0,
            duration=None,
        ),
        task=Info(
            depends_on_past=False,
            downstream_task_ids="['check_orders']",
            executor_config={},
            mapped=False,
            multiple_outputs=None,
            operator_class="SQLExecuteQueryOperator",
            operator_provider_version="1.28.0",
            owner="data-platform",
            priority_weight=1,
            queue="default",
            retries=2,
            task_group=None,
            task_id="load_orders",
            upstream_task_ids="['extract_orders']",
        ),
        taskInstance=Info(
            duration=None,
            log_url="http://airflow.example/dags/orders_daily",
            map_index=-1,
            pool="default_pool",
            queued_dttm="2026-01-02T00:00:01.523456+00:00",
            try_number=1,
        ),
        taskUuid=RUN_ID,
    )


def run_facets() -> dict[str, RunFacet]:
    return {
        "parent": parent_run.ParentRunFacet(
            run=parent_run.Run(DAG_RUN_ID),
            job=parent_run.Job("production", "orders_daily"),
            root=parent_run.Root(
                parent_run.RootRun(DAG_RUN_ID), parent_run.RootJob("production", "orders_daily")
            ),
        ),
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet("3.3.2", "Airflow", "2.20.3"),
        "airflow": airflow_facet(),
    }


def job() -> Job:
    facets: dict[str, JobFacet] = {
        "documentation": documentation_job.DocumentationJobFacet("Loads yesterday's orders"),
        "ownership": ownership_job.OwnershipJobFacet([ownership_job.Owner("data-platform")]),
        "jobType": job_type_job.JobTypeJobFacet("BATCH", "AIRFLOW", "TASK"),
        "sql": sql_job.SQLJobFacet("INSERT INTO mart.orders SELECT id, placed_at, total FROM raw.orders"),
    }
    return Job("production", "orders_daily.load_orders", facets)


def schema(columns: int) -> schema_dataset.SchemaDatasetFacet:
    fields = [schema_dataset.SchemaDatasetFacetFields(f"column_{i}", "varchar") for i in range(columns)]
    return schema_dataset.SchemaDatasetFacet(fields=fields)


def column_lineage(columns: int) -> column_lineage_dataset.ColumnLineageDatasetFacet:
    fields = {
        f"column_{i}": column_lineage_dataset.Fields(
            [column_lineage_dataset.InputField("postgres://db:5432", "shop.raw.orders", f"column_{i}")]
        )
        for i in range(columns)
    }
    return column_lineage_dataset.ColumnLineageDatasetFacet(fields=fields)


def events() -> dict[str, RunEvent]:
    def of(state: RunState, **datasets: Any) -> RunEvent:
        run, when = Run(RUN_ID, run_facets()), "2026-01-02T00:00:02.123456+00:00"
        return RunEvent(eventType=state, eventTime=when, run=run, job=job(), producer=PRODUCER, **datasets)

    orders = InputDataset("postgres://db:5432", "shop.raw.orders", facets={"schema": schema(4)})
    mart = OutputDataset(
        "postgres://db:5432",
        "shop.mart.orders",
        facets={"schema": schema(4), "columnLineage": column_lineage(4)},
    )
    return {
        "task start": of(RunState.START),
        "task complete": of(RunState.COMPLETE, inputs=[orders], outputs=[mart]),
    }


def timed(
    functions: dict[str, Callable[[object], object]], event: object, rounds: int
) -> dict[str, list[float]]:
    """Microseconds of each call, the functions taking turns; a tenth of the rounds warms up beforehand."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(-(rounds // 10), rounds):
        for name, function in functions.items():
            start = time.perf_counter_ns()
            function(event)
            taken = time.perf_counter_ns() - start
            if turn >= 0:
                times[name].append(taken / 1000)
    return times


def measured(options: argparse.Namespace) -> dict[str, Any]:
    rounds = options.rounds
    functions: dict[str, Callable[[object], object]] = {"keepline": serialise, "Serde": Serde.to_json}
    rows: dict[str, Any] = {}
    for name, event in events().items():
        if json.loads(serialise(event)) != json.loads(Serde.to_json(event)):
            raise SystemExit(f"{name}: keepline and Serde write different JSON")
        row: dict[str, Any] = {"bytes": len(Serde.to_json(event))}
        with told(name):
            taken = timed(functions, event, rounds)
        for who, times in taken.items():
            centiles = statistics.quantiles(times, n=100)
            row[who] = {"p50": round(centiles[49], 1), "p99": round(centiles[98], 1)}
        row["ratio"] = {p: round(row["Serde"][p] / row["keepline"][p], 1) for p in ("p50", "p99")}
        rows[name] = row
    return {
        "python": platform.python_version(),
        "openlineage-python": client_version,
        "orjson": orjson.__version__,
        "rounds": rounds,
        "events": rows,
    }


def tables(result: dict[str, Any]) -> list[Table]:
    rows = []
    for name, row in result["events"].items():
        for p in ("p50", "p99"):
            times = [f"{row[who][p]:.1f}" for who in ("keepline", "Serde")]
            rows.append([f"{name}, {row['bytes']:,} bytes, {p}", *times, f"{row['ratio'][p]:.1f}x"])
    return [Table("One event to JSON, microseconds.", ["event", "keepline", "Serde", "ratio"], rows)]


if __name__ == "__main__":
    run(__doc__, NUMBERS, measured, tables)
