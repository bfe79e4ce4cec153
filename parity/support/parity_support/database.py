"""How Airflow 2.11 meets its database: many processes share an SQLite file here, each waits for its turn."""

WAIT_FOR_LOCKS = {"timeout": 60}
