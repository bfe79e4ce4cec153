"""What the provider's tests import of Airflow's own test tools, which aren't released with them.

Written anew, and only as far as the tests of ``plugins/`` need it.
"""

RUNNING_TESTS_AGAINST_AIRFLOW_PACKAGES = False
