"""Keepline inside Airflow: the only room that imports it."""
