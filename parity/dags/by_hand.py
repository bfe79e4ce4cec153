"""What the driver changes through Airflow's API while it runs, or when it has run."""

from __future__ import annotations

from parity_support.versions import BashOperator, PythonOperator, a_dag, task, wait_to_be_stopped

for name in (
    "task_set_to_success",
    "task_set_to_failed",
    "task_set_to_skipped",
    "run_set_to_success",
    "run_set_to_failed",
):
    with a_dag(name):
        # Before what waits in the executor's queue: the driver waits for it.
        PythonOperator(
            task_id="waits", python_callable=wait_to_be_stopped, priority_weight=1000
        ) >> BashOperator(task_id="after", bash_command="true")

with a_dag("ended_task_set_to_failed"):
    BashOperator(task_id="first", bash_command="true") >> BashOperator(task_id="second", bash_command="true")

with a_dag("cleared"):

    @task
    def first():
        return 1

    @task
    def second():
        return 2

    first() >> second()
