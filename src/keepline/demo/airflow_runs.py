"""Create many runs of a DAG at once: ``python airflow_runs.py DAG_ID COUNT PREFIX``.

A script for the Python of an environment with Airflow (2.11 or 3), started by its path and never imported:
with Airflow's own command line each run would cost a process of some seconds. The last line that it prints is
a JSON list of the run ids.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta, timezone

from airflow import __version__
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunType

AIRFLOW_2 = __version__.startswith("2.")


def create_runs(dag_id: str, count: int, prefix: str) -> list[str]:
    """Create queued runs, all in one transaction.

    Args:
        dag_id: a serialised DAG.
        count: how many.
        prefix: of the run ids, which are ``PREFIX-0000`` and on.

    """
    created = []
    with create_session() as session:
        dag = SerializedDagModel.get_dag(dag_id, session=session)
        if dag is None:
            raise SystemExit(f"there is no DAG {dag_id!r} in this Airflow's database")
        date = DagRun.execution_date if AIRFLOW_2 else DagRun.logical_date
        last = session.query(date).filter(DagRun.dag_id == dag_id).order_by(date.desc()).limit(1).scalar()
        # A second apart, because the OpenLineage run id is made from the date in milliseconds; in the past,
        # because Airflow lets runs of the future wait.
        when = last or datetime.now(timezone.utc) - timedelta(days=30)
        for index in range(count):
            run_id, when = f"{prefix}-{index:04d}", when + timedelta(seconds=1)
            of_version = {"execution_date": when, "external_trigger": True} if AIRFLOW_2 else version_3(when)
            dag.create_dagrun(
                run_id=run_id,
                state=DagRunState.QUEUED,
                run_type=DagRunType.MANUAL,
                data_interval=(when, when),
                session=session,
                **of_version,
            )
            created.append(run_id)
    return created


def version_3(when: datetime) -> dict[str, object]:
    """Give what only Airflow 3 wants to know of a run with logical date ``when``."""
    from airflow.utils.types import DagRunTriggeredByType

    return {"logical_date": when, "run_after": when, "triggered_by": DagRunTriggeredByType.TEST}


if __name__ == "__main__":
    print(json.dumps(create_runs(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
