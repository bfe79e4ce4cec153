"""Runs tasks as an executor does, one after the other: ``python task_process.py DAG_FILE SAMPLES``.

For an interpreter with Airflow, which is imported once; each task's processes are forked from this one, as an
executor's are. ``SAMPLES`` is a file of JSON: of each the environment and its log.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any


def run_one(dag_file: Path, sample: dict[str, Any]) -> None:
    """Run the task in this process' children; never returns."""
    import task  # the tests' way to run one

    faulthandler.cancel_dump_traceback_later()
    log = os.open(sample["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(sample["env"])
    status = 1
    try:
        run = task.run_3 if "airflow.sdk" in sys.modules else task.run_2
        status = 0 if run(dag_file, "task")["state"] == "success" else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    import airflow.plugins_manager

    with suppress(ImportError):  # Airflow 2 has none
        import airflow.sdk  # noqa: F401
    dag_file, samples = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    for sample in samples:
        pid = os.fork()
        if pid == 0:
            run_one(dag_file, sample)
        _, status = os.waitpid(pid, 0)
        if status:
            raise SystemExit(f"the task has failed:\n{Path(sample['log']).read_text()[-4000:]}")


if __name__ == "__main__":
    main()
