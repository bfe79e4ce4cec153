"""DAGs for a sandbox, as sources that run on Airflow 2.11 and 3, by file name."""

from __future__ import annotations

RUNS_ONLY = {
    "runs_only.py": """\
from datetime import datetime

try:
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import DAG
except ImportError:
    from airflow import DAG
    from airflow.operators.empty import EmptyOperator

with DAG("runs_only", schedule=None, start_date=datetime(2020, 1, 1), catchup=False, max_active_runs=100000):
    EmptyOperator(task_id="nothing")
"""
}
"""DAG ``runs_only``: the scheduler finishes its runs by itself, each with two events: start and complete."""

ONE_TASK = {
    "one_task.py": """\
from datetime import datetime

try:
    from airflow.providers.standard.operators.python import PythonOperator
    from airflow.sdk import DAG
except ImportError:
    from airflow import DAG
    from airflow.operators.python import PythonOperator


def work():
    print("done")


with DAG("one_task", schedule=None, start_date=datetime(2020, 1, 1), catchup=False, max_active_runs=100000):
    PythonOperator(task_id="work", python_callable=work)
"""
}
"""DAG ``one_task``: a task in a process of its own; four events a run: the run's two, the task's two."""
