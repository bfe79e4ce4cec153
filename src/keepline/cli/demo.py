"""``keepline demo``: the main job on a real Airflow, and the seed's own table."""

from __future__ import annotations

import click
from rich.console import Console


@click.command(short_help="Run a real Airflow through outages and kills.")
@click.option(
    "--seed",
    is_flag=True,
    help="Show what clients that are made once per event cost, and Keepline beside it.",
)
@click.option("--runs", default=200, show_default=True, type=click.IntRange(min=10), help="DAG runs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of tables.")
def demo(seed: bool, runs: int, as_json: bool) -> None:
    """Run a real Airflow scheduler through outages and kills, and count every event.

    It needs Airflow with the OpenLineage provider in this environment: `pip install keepline[airflow]`.
    """
    console = Console(stderr=as_json)
    if seed:
        from keepline.demo.seed import run_seed

        raise SystemExit(run_seed(console, as_json=as_json))
    from keepline.demo.main import run_demo

    raise SystemExit(run_demo(console, runs=runs, as_json=as_json))
