"""How Airflow meets its database: many processes share an SQLite file here, each waits for its turn."""

WAIT_FOR_LOCKS = {"timeout": 10}
