from __future__ import annotations

import shutil

from tests.integration.airflow_support import KEEPLINE, Airflow, airflow

__all__ = ["airflow"]


def test_what_a_scheduler_has_open_of_sqlite_is_no_trouble_to_its_pool_worker(airflow: Airflow):
    database = airflow.home / "airflow.db"
    shutil.copy(airflow.database, database)
    airflow.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{database}"
    airflow.transport({"type": KEEPLINE, "transports": {"a": {"type": "http", "url": "http://127.0.0.1:9"}}})
    assert airflow.script("early", str(database)).result == ["0", "100"]
