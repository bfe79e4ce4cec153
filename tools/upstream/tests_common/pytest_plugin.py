"""Fixtures and markers."""

from __future__ import annotations

import importlib
import logging.config
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from tests_common.test_utils.dag import create_scheduler_dag
from tests_common.test_utils.taskinstance import create_task_instance as make_task_instance
from tests_common.test_utils.version_compat import AIRFLOW_V_3_0_PLUS


def nested(value: Any, chain: list[str]) -> Any:
    """What stands at the end of a chain of keys, in the first of each list on the way."""
    for key in chain:
        if isinstance(value, list):
            value = value[0] if value else None
        if value is None:
            return None
        value = value.get(key)
    return value


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "db_test: uses the database")
    try:  # of another provider, for one function
        importlib.import_module("airflow.providers.google.cloud.openlineage.utils")
    except ImportError:
        for name in ("google", "google.cloud", "google.cloud.openlineage", "google.cloud.openlineage.utils"):
            module = ModuleType(f"airflow.providers.{name}")
            module.__path__ = []
            module.get_from_nullable_chain = nested
            sys.modules.setdefault(module.__name__, module)


@pytest.fixture
def listener_manager() -> Iterator[Callable[[object], None]]:
    """Registers listeners, which are gone after the test."""
    from airflow.listeners.listener import get_listener_manager

    manager = get_listener_manager()
    manager.clear()
    yield manager.add_listener
    manager.clear()


@pytest.fixture
def reset_logging_config() -> None:
    from airflow import settings
    from airflow.utils.module_loading import import_string

    logging.config.dictConfig(import_string(settings.LOGGING_CLASS_PATH))


@pytest.fixture
def dag_maker() -> None:
    pytest.skip("needs Airflow's own test tools")


@pytest.fixture
def create_runtime_ti() -> None:
    pytest.skip("needs Airflow's own test tools")


@pytest.fixture
def create_task_instance() -> Iterator[Callable[..., Any]]:
    """Makes a task in a run of a DAG of one task, both in the database."""
    from airflow.models import DAG
    from airflow.utils import types
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState

    from tests_common.test_utils.compat import EmptyOperator
    from tests_common.test_utils.db import clear_db_runs

    clear_db_runs()
    with create_session() as session:

        def make(dag_id: str, task_id: str) -> Any:
            try:
                from airflow.sdk import timezone
            except ImportError:
                from airflow.utils import timezone
            date = timezone.datetime(2016, 1, 1)
            dag = DAG(dag_id, schedule=None, start_date=date)
            task = EmptyOperator(task_id=task_id, dag=dag)
            given: dict[str, Any] = {"execution_date": date}
            if AIRFLOW_V_3_0_PLUS:
                given = {
                    "logical_date": date,
                    "run_after": date,
                    "triggered_by": types.DagRunTriggeredByType.TEST,
                }
            scheduled = create_scheduler_dag(dag, session=session)
            run = scheduled.create_dagrun(
                run_id="test",
                data_interval=(date, date),
                start_date=date,
                run_type=types.DagRunType.MANUAL,
                state=DagRunState.RUNNING,
                session=session,
                **given,
            )
            run.dag = scheduled
            one = run.get_task_instance(task_id, session=session) or make_task_instance(task, run_id="test")
            one.dag_run = run
            return one

        yield make
        session.rollback()
