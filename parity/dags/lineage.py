"""Where lineage comes from: operators, extractors, SQL, hooks' collector, calls of the provider's own API."""

from __future__ import annotations

from parity_support.lineage import SilentOperator, SpeakingOperator, UnwantedOperator
from parity_support.sql import CONNECTION, NamedSqliteOperator
from parity_support.versions import AIRFLOW_2, BashOperator, PythonOperator, a_dag, task

with a_dag("sql") as dag:
    made = NamedSqliteOperator(
        task_id="make",
        sql=[
            "CREATE TABLE IF NOT EXISTS orders (id INTEGER, größe REAL)",
            "CREATE TABLE IF NOT EXISTS sums (id INTEGER, total REAL)",
            "CREATE TABLE IF NOT EXISTS column_list (table_schema TEXT, table_name TEXT,"
            " column_name TEXT, ordinal_position INTEGER, udt_name TEXT)",
            "INSERT INTO column_list VALUES ('main', 'orders', 'id', 1, 'int'),"
            " ('main', 'orders', 'größe', 2, 'real'), ('main', 'sums', 'id', 1, 'int'),"
            " ('main', 'sums', 'total', 2, 'real')",
        ],
    )
    filled = NamedSqliteOperator(
        task_id="fill", sql="INSERT INTO sums SELECT id, sum(größe) AS total FROM orders GROUP BY id -- 合計"
    )
    failed = NamedSqliteOperator(task_id="fail", sql="SELECT * FROM nowhere")
    made >> filled >> failed

    from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

    filled >> SQLExecuteQueryOperator(task_id="plain", conn_id=CONNECTION, sql="SELECT id FROM orders")

    @task
    def by_hook():
        from airflow.providers.sqlite.hooks.sqlite import SqliteHook

        return SqliteHook(CONNECTION).get_records("SELECT total FROM sums")

    filled >> by_hook()

with a_dag("extractors"):
    SpeakingOperator(task_id="speaks")
    SpeakingOperator(task_id="speaks_then_fails", fail=True)
    SilentOperator(task_id="silent")

with a_dag("disabled_operators"):
    UnwantedOperator(task_id="unwanted") >> BashOperator(task_id="wanted", bash_command="true")

with a_dag("hook_lineage"):

    @task
    def collects():
        if AIRFLOW_2:
            from airflow.lineage.hook import get_hook_lineage_collector

            collector = get_hook_lineage_collector()
            collector.add_input_dataset(None, uri="file://host/in", dataset_extra={"größe": 1})
            collector.add_output_dataset(None, uri="file://host/out")
        else:
            from airflow.sdk.lineage import get_hook_lineage_collector

            collector = get_hook_lineage_collector()
            collector.add_input_asset(None, uri="file://host/in", asset_extra={"größe": 1})
            collector.add_output_asset(None, uri="file://host/out")

    collects()

with a_dag("emits_itself"):

    def says_what_it_used():
        from airflow.providers.openlineage.api.datasets import emit_dataset_lineage
        from airflow.providers.openlineage.api.sql import emit_query_lineage
        from openlineage.client.event_v2 import InputDataset, OutputDataset

        emit_dataset_lineage(
            inputs=[InputDataset("parity://host", "said.in")],
            outputs=[OutputDataset("parity://host", "said.out")],
            raise_on_error=True,
        )
        emit_query_lineage(
            query_id="q-1",
            query_source_namespace="sqlite://parity",
            query_text="SELECT 'größe' FROM orders",
            raise_on_error=True,
        )

    PythonOperator(task_id="says", python_callable=says_what_it_used)
