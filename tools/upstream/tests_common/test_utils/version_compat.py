"""Which Airflow this is."""

from __future__ import annotations

from airflow import __version__

_RELEASE = tuple(int(part) for part in __version__.split(".")[:2])
AIRFLOW_V_3_0_PLUS = _RELEASE >= (3, 0)
AIRFLOW_V_3_1_PLUS = _RELEASE >= (3, 1)
AIRFLOW_V_3_2_PLUS = _RELEASE >= (3, 2)
AIRFLOW_V_3_3_PLUS = _RELEASE >= (3, 3)
