"""Reconciliation: what Airflow's database says has happened, and the outbox has no event of, is emitted."""
