"""DAGs of 500 tasks."""

from __future__ import annotations

from parity_support.versions import EmptyOperator, PythonOperator, TaskGroup, a_dag, task, wait_to_be_stopped

with a_dag("many", max_active_tasks=64):
    # An EmptyOperator is ended by the scheduler, without a process and without an event of its own; the run's
    # events tell of it. 400 of these and 100 that run.
    with TaskGroup("works") as works:
        for index in range(20):
            PythonOperator(task_id=f"work_{index}", python_callable=print)

        @task
        def double(number):
            return 2 * number

        double.expand(number=list(range(80)))
    for row in range(40):
        with TaskGroup(f"row_{row}") as group:
            last = None
            for column in range(10):
                here = EmptyOperator(task_id=f"task_{column}")
                if last is not None:
                    last >> here
                last = here
        works >> group

with a_dag("many_set_to_success"):
    PythonOperator(
        task_id="waits", python_callable=wait_to_be_stopped, priority_weight=1000
    ) >> PythonOperator.partial(task_id="mapped", python_callable=print).expand(
        op_args=[[index] for index in range(499)]
    )
