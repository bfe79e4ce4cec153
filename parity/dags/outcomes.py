"""How tasks end: in success, in failure, after a retry, skipped, at a time limit, killed."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta

from parity_support.versions import (
    AirflowFailException,
    AirflowSkipException,
    BashOperator,
    BranchPythonOperator,
    EmptyOperator,
    PythonOperator,
    ShortCircuitOperator,
    a_dag,
    count,
    task,
    wait_to_be_stopped,
)

with a_dag(
    "success", description="Python and Bash", default_args={"owner": "ann, ben"}, tags=["a", "b"]
) as dag:
    dag.doc_md = "# What it does\n\nIt succeeds."
    (
        PythonOperator(task_id="python", python_callable=lambda: 7, doc="of the task")
        >> BashOperator(
            task_id="bash",
            bash_command="echo '{{ ds }} {{ dag_run.conf }}'; test -n \"$WORD\"",
            env={"WORD": "of the task"},
            owner="carl",
        )
        >> BashOperator(
            task_id="macros",
            bash_command="echo {{ macros.OpenLineageProviderPlugin.lineage_parent_id(task_instance) }}",
            doc_md="*markdown*",
        )
    )

with a_dag("failure", dagrun_timeout=timedelta(hours=1)):

    @task
    def fails():
        raise ValueError("on purpose")

    @task
    def fails_for_good():
        raise AirflowFailException("no retry for this")

    @task
    def never_runs():
        raise AssertionError

    [fails(), fails_for_good()] >> never_runs()
    BashOperator(task_id="bash_fails", bash_command="exit 3")

with a_dag("retry", default_args={"retries": 2, "retry_delay": timedelta(seconds=0)}):

    @task
    def third_time_lucky():
        if count("third_time_lucky") < 3:
            raise ValueError("not yet")

    @task(retries=1)
    def never_lucky():
        raise ValueError("not ever")

    third_time_lucky()
    never_lucky()

with a_dag("skip"):

    @task
    def skips():
        raise AirflowSkipException("on purpose")

    @task
    def skipped_too():
        raise AssertionError

    @task(trigger_rule="none_failed")
    def runs():
        pass

    skipping = skips()
    skipping >> skipped_too()
    skipping >> runs()
    ShortCircuitOperator(task_id="stop_here", python_callable=lambda: False) >> EmptyOperator(
        task_id="cut_off"
    )
    branch = BranchPythonOperator(task_id="branch", python_callable=lambda: "left")
    branch >> [EmptyOperator(task_id="left"), PythonOperator(task_id="right", python_callable=print)]
    BashOperator(task_id="bash_skips", bash_command="exit 99")

with a_dag("ended"):

    @task(execution_timeout=timedelta(seconds=2))
    def over_its_time():
        time.sleep(120)

    @task
    def killed():
        os.kill(os.getpid(), signal.SIGKILL)

    over_its_time()
    killed()

# Time enough to start on a busy machine, and less than the other DAGs take.
with a_dag("run_over_its_time", dagrun_timeout=timedelta(seconds=90)):
    PythonOperator(
        task_id="works_long", python_callable=wait_to_be_stopped, priority_weight=1000
    ) >> PythonOperator(task_id="too_late", python_callable=print)
