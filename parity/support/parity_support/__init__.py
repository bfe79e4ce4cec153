"""What the DAGs of the parity check import: on Airflow's path in both of its runs."""
