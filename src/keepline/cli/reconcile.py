"""``keepline reconcile``: emit what Airflow's database says has happened, and the outbox has no event of."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

import click

from keepline.cli.asking import EXIT_DEAD
from keepline.cli.common import confirm, has_provider, json_option, plain_errors, yes_option
from keepline.cli.printing import plain, print_table, several
from keepline.cli.waiting import progress
from keepline.cli.when import FORMS, When, clock, see_that_in_order
from keepline.errors import ReconcileError

if TYPE_CHECKING:
    from keepline.airflow.reconcile.doing import Request
    from keepline.airflow.reconcile.report import Report
    from keepline.outbox.files import OutboxFiles

_TYPES = ("START", "COMPLETE", "FAIL")


@click.command(short_help="Emit what Airflow knows of and the outbox has no event of.")
@click.option(
    "--from",
    "since",
    type=When(),
    help=f"Only events that were due since: {FORMS}. Default: as far back as the outbox knows everything.",
)
@click.option(
    "--to",
    "until",
    type=When(),
    help="Only events that were due before; as --from. Default: now, but for --grace.",
)
@click.option(
    "--grace",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds that an event may be under way from its hook to the outbox until it counts as missing.",
)
@click.option("--dag", "dags", metavar="DAG_ID", multiple=True, help="Only of this DAG. Repeatable.")
@click.option("--dry-run", is_flag=True, help="Say what is missing, and do nothing.")
@yes_option
@json_option
@plain_errors
def reconcile(
    since: float | None,
    until: float | None,
    grace: float,
    dags: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Compare Airflow's metadata database with the outbox, and emit the events that are missing.

    That is the START and the end of every DAG run and of every try of a task that OpenLineage's provider for
    Airflow emits events of. Each has the run facet `keepline_reconciled`. Run it in the scheduler's
    environment; doing so twice emits nothing twice.

    Asks first when it would emit what was due before the outbox had its first event.

    Exits with status 4 when an event could not be built.
    """
    see_that_in_order("--from", since, "--to", until)
    if not has_provider():
        raise ReconcileError(
            f"there is no Airflow with its OpenLineage provider beside {sys.executable}; run the `keepline` "
            "of the scheduler's environment"
        )
    # Airflow talks: what a program reads on the standard output must stay ours.
    with redirect_stdout(sys.stderr):
        from keepline.airflow.reconcile.doing import Request

        report = _carry_out(Request(since, until, dags, dry_run, grace), yes=yes)
    if as_json:
        click.echo(json.dumps(report.document(), indent=2))
    else:
        _show(report)
    if report.failed:
        raise SystemExit(EXIT_DEAD)


def _carry_out(request: Request, *, yes: bool) -> Report:
    from keepline.airflow.reconcile.doing import find_outbox, reconcile

    files = find_outbox()
    if not request.dry_run:
        _ask(files, request, yes=yes)
    with progress() as shown:
        task = shown.add_task("DAG runs", total=None)
        return reconcile(
            files,
            request,
            total=lambda count: shown.update(task, total=count),
            done=lambda count: shown.advance(task, count),
            stop=_never,
        )


def _never() -> bool:
    return False


def _ask(files: OutboxFiles, request: Request, *, yes: bool) -> None:
    from keepline.outbox.known import reach

    known = reach(files)
    if request.since is None or known.forgotten or (known.since or 0.0) <= request.since:
        return
    confirm(
        f"the outbox had its first event at {clock(known.since)}; what was due before that is emitted too, "
        "also if another transport has delivered it; go on",
        yes=yes,
    )


def _tries(count: int) -> str:
    return "1 try" if count == 1 else f"{count} tries"


def _show(report: Report) -> None:
    dags = sorted({dag_id for dag_id, _ in report.missing})
    if dags:
        rows = [
            (plain(dag_id), *(str(report.missing[dag_id, kind] or "-") for kind in _TYPES)) for dag_id in dags
        ]
        print_table(("DAG", *_TYPES), rows, right=_TYPES)
    looked = (
        f"{several(report.dag_runs, 'DAG run')} and {_tries(report.tries)} of tasks, from "
        f"{clock(report.since)} to {clock(report.until)}"
    )
    missing = report.missing.total()
    if report.until <= report.since:
        click.echo(f"nothing to look at yet, for events may be under way (--grace): {looked}")
    elif not report.emitted and not report.failed:
        click.echo(f"nothing is missing: {looked}")
    else:
        click.echo(
            f"missing: {several(missing, 'event')} of {several(report.runs, 'run')}; looked at {looked}"
        )
        again = f", {report.repeated} of them again, to stand behind a START" if report.repeated else ""
        verb = "would be emitted" if report.dry_run else "emitted"
        click.echo(f"{verb}: {several(report.emitted, 'event')}{again}")
    if report.under_way:
        click.echo(
            f"left alone: {several(report.under_way, 'run')} with an event under way in the pool's spool"
        )
    if report.gone:
        click.echo(f"left alone: {_tries(report.gone)} whose task no DAG has any more")
    for failure in report.failures:
        click.echo(f"not built: {plain(failure)}")
    if report.failed > len(report.failures):
        click.echo(f"not built: {report.failed - len(report.failures)} more")
