"""A DAG as the scheduler has it."""

from __future__ import annotations

from typing import Any

from tests_common.test_utils.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_1_PLUS


def create_scheduler_dag(dag: Any, session: Any = None) -> Any:
    """Serialise a DAG, and put it where a run of it wants to find it."""
    if not AIRFLOW_V_3_0_PLUS:
        return dag
    if not AIRFLOW_V_3_1_PLUS:
        return dag
    from airflow.serialization.serialized_objects import DagSerialization, LazyDeserializedDAG

    data = DagSerialization.to_dict(dag)
    if session is not None:
        from airflow.models import DagModel
        from airflow.models.dagbundle import DagBundleModel
        from airflow.models.serialized_dag import SerializedDagModel

        session.merge(DagBundleModel(name="testing"))
        session.flush()
        session.merge(DagModel(dag_id=dag.dag_id, bundle_name="testing"))
        session.flush()
        SerializedDagModel.write_dag(LazyDeserializedDAG(data=data), bundle_name="testing", session=session)
        session.flush()
    return DagSerialization.from_dict(data)
