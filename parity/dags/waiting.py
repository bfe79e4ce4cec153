"""What waits: in the triggerer, by being rescheduled, for an asset, for another DAG."""

from __future__ import annotations

from datetime import datetime, timezone

from parity_support.deferring import DeferringOperator
from parity_support.versions import (
    Asset,
    BashOperator,
    DateTimeSensorAsync,
    PythonOperator,
    PythonSensor,
    TriggerDagRunOperator,
    a_dag,
    count,
    task,
)

# A task that is queued again before the scheduler knows that its process has ended is taken for a failure by
# Airflow: nothing here may be that quick.
LOOK_EVERY = 15

with a_dag("deferrable"):
    DeferringOperator(task_id="once")
    DeferringOperator(task_id="twice", times=2)
    DeferringOperator(task_id="fails", fail=True)
    DateTimeSensorAsync(
        task_id="sensor", target_time="{{ macros.datetime.utcnow() + macros.timedelta(seconds=15) }}"
    )

with a_dag("reschedule"):
    PythonSensor(
        task_id="third_look",
        python_callable=lambda: count("third_look") >= 3,
        mode="reschedule",
        poke_interval=LOOK_EVERY,
        timeout=300,
    )
    PythonSensor(
        task_id="in_vain",
        python_callable=lambda: False,
        mode="reschedule",
        poke_interval=LOOK_EVERY,
        timeout=5,
    )
    PythonSensor(
        task_id="in_vain_softly",
        python_callable=lambda: False,
        mode="reschedule",
        poke_interval=LOOK_EVERY,
        timeout=5,
        soft_fail=True,
    )

made, also_made = Asset("parity://host/made"), Asset("parity://host/also_made", extra={"größe": "groß"})

with a_dag("asset_producer"):
    # One after the other, for the events of assets are numbered.
    BashOperator(task_id="makes", bash_command="true", outlets=[made]) >> PythonOperator(
        task_id="makes_also", python_callable=print, inlets=[made], outlets=[also_made]
    )

with a_dag("asset_consumer", schedule=[made, also_made]):
    BashOperator(task_id="uses", bash_command="true", inlets=[made])

with a_dag("triggering"):
    TriggerDagRunOperator(
        task_id="at_a_date",
        trigger_dag_id="triggered_at_a_date",
        trigger_run_id="from_triggering",
        logical_date="2024-03-01T00:00:00+00:00",
        conf={"größe": [1, 2.5, None], "from": "{{ dag.dag_id }}"},
        wait_for_completion=True,
        poke_interval=1,
    ) >> TriggerDagRunOperator(
        task_id="now",
        trigger_dag_id="triggered_now",
        wait_for_completion=True,
        poke_interval=LOOK_EVERY,
        deferrable=True,
    )

for name in ("triggered_at_a_date", "triggered_now"):
    with a_dag(name):
        BashOperator(task_id="runs", bash_command="true")

with a_dag("daily", schedule="@daily", end_date=datetime(2024, 1, 2, tzinfo=timezone.utc), catchup=True):
    BashOperator(task_id="runs", bash_command="echo {{ ds }}")

with a_dag("backfilled", schedule="@daily", end_date=datetime(2024, 2, 28, tzinfo=timezone.utc)):

    @task
    def fills(ds=None):
        return ds

    fills() >> BashOperator(task_id="then", bash_command="echo {{ ds }}")
