# Needs python3 (3.11 or 3.12) with pip, and make. Everything else is fetched into .venv/ and .tools/.
PYTHON ?= python3
DEV := .venv/dev/bin
SETUP = @$(PYTHON) tools/setup_env.py

.DEFAULT_GOAL := help
.PHONY: help demo bench matrix parity executors reconcile provider-tests test check lint types unit clean setup

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo:  ## 200 DAG runs of a live Airflow 3.3.2 through outages and kill -9, and what became of each event
	$(SETUP) airflow-3.3.2
	@.venv/airflow-3.3.2/bin/keepline demo

bench:  ## Keepline beside its peers, about 10 minutes; writes bench/RESULTS.md (needs nginx)
	$(SETUP) dev
	@$(PYTHON) tools/have.py nginx
	@$(DEV)/python bench/run.py

matrix:  ## a live Airflow with each provider in constraints/, about 15 minutes; writes docs/matrix.md
	@$(PYTHON) tools/matrix.py

parity:  ## the same DAGs on live Airflows without Keepline and with it, the events compared; writes parity/RESULTS.md
	$(SETUP) dev airflow-2.11.2 airflow-3.3.2
	@$(DEV)/python -m parity

reconcile:  ## 100 DAG runs whose scheduler is killed ten times, then reconciled; about 5 minutes, prints its figures
	$(SETUP) dev airflow-3.3.2
	RECONCILE_RUNS=100 RECONCILE_KILLS=10 $(DEV)/python -m pytest -q -s tests/acceptance/test_reconcile.py -k kills

test: lint types  ## everything: lint, types, unit, integration, acceptance (live Airflow 3.3.2 and 2.11.2)
	$(SETUP) airflow-3.3.2 airflow-2.11.2
	@$(PYTHON) tools/have.py nginx
	$(DEV)/coverage erase
	$(DEV)/coverage run --branch --parallel-mode --source=keepline -m pytest tests/unit tests/integration
	$(DEV)/coverage combine --quiet
	$(DEV)/coverage report --skip-covered
	$(DEV)/python -m pytest -m "not heavy" tests/acceptance

executors:  ## every executor, sidecars, and how long Airflow's processes take to stop, 15 minutes (PostgreSQL 15)
	$(SETUP) dev airflow-3.3.2 airflow-2.11.2 airflow-3.3.2-celery airflow-2.11.2-celery
	@$(PYTHON) tools/have.py postgresql
	$(DEV)/python -m pytest -s tests/acceptance/test_executors.py tests/acceptance/test_containers.py tests/acceptance/test_stopping.py

check: lint types unit  ## what is quick: lint, types, unit tests

provider-tests:  ## the OpenLineage provider's own tests, with its listener and with Keepline's
	$(SETUP) airflow-3.3.2 airflow-2.11.2
	@$(PYTHON) tools/provider_tests.py

lint:  ## ruff, its checks and its format
	$(SETUP) dev
	$(DEV)/ruff check
	$(DEV)/ruff format --check

types:  ## mypy --strict
	$(SETUP) dev
	$(DEV)/mypy

unit:  ## unit tests
	$(SETUP) dev
	$(DEV)/python -m pytest tests/unit

setup:  ## the environments, without running anything
	$(SETUP) dev airflow-3.3.2 airflow-2.11.2

clean:  ## remove environments, tools and caches
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* build dist
	find src tests tools bench parity -name __pycache__ -type d -prune -exec rm -rf {} +
