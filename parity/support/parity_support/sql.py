"""SQLite with lineage: the provider's own hook doesn't say which database it is, this one does."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.openlineage.sqlparser import DatabaseInfo
from airflow.providers.sqlite.hooks.sqlite import SqliteHook

CONNECTION = "parity_sqlite"


class NamedSqliteHook(SqliteHook):
    """Names its database, and where the columns of its tables are told."""

    def get_openlineage_database_info(self, connection: Any) -> DatabaseInfo:
        return DatabaseInfo(
            scheme="sqlite",
            authority="parity",
            database="main",
            information_schema_columns=[
                "table_schema",
                "table_name",
                "column_name",
                "ordinal_position",
                "udt_name",
            ],
            information_schema_table_name="main.column_list",
        )

    def get_openlineage_database_dialect(self, connection: Any) -> str:
        return "sqlite"

    def get_openlineage_default_schema(self) -> str:
        return "main"


class NamedSqliteOperator(SQLExecuteQueryOperator):
    """Runs SQL with that hook."""

    def __init__(self, **options: Any) -> None:
        super().__init__(conn_id=CONNECTION, **options)

    def get_db_hook(self) -> NamedSqliteHook:
        return NamedSqliteHook(CONNECTION)
