"""Whether Airflow emits the same events with Keepline as without: ``make parity``."""
