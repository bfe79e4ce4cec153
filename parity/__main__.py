"""Run the check: ``python -m parity [--into FOLDER] [--work FOLDER] [--reuse] [VERSION ...]``.

The exit status is 1 when the events of the two sides aren't equal, 2 when the check itself failed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from keepline.demo.sandbox import SandboxError
from parity.api import ApiError
from parity.capture import SIDES, Capture, capture
from parity.report import Outcome, document, mismatches, table
from parity.scenario import DATED_BY_AIRFLOW, ENDED_FROM_OUTSIDE, SELECTIVE
from parity.verdict import judge

HERE = Path(__file__).resolve().parent
VERSIONS = ("2.11.2", "3.3.2")
_INSTALLED = (
    "apache-airflow",
    "apache-airflow-providers-openlineage",
    "openlineage-python",
    "apache-airflow-providers-common-sql",
    "apache-airflow-providers-sqlite",
    "keepline",
)
_ASK = """\
import importlib.metadata, json, sys
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""


def outcome_of(version: str, work: Path, *, reuse: bool) -> Outcome:
    """Run both sides of one version, and compare them.

    Args:
        version: of Airflow.
        work: its folder.
        reuse: take a capture that is in the folder already instead of running its side.
    """
    python = HERE.parent / ".venv" / f"airflow-{version}" / "bin" / "python"
    asked = subprocess.run([python, "-c", _ASK, *_INSTALLED], capture_output=True, text=True, check=True)
    began = time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    captures: dict[str, Capture] = {}
    for side in SIDES:

        def say(what: str, side: str = side) -> None:
            print(f"{time.monotonic() - began:5.0f} s  {version} {side}: {what}", flush=True)

        file = work / f"{side}.json"
        if not (reuse and file.exists()):
            capture(side, python, work, say).save(file)
        captures[side] = Capture.load(file)
        say(", ".join(f"{len(events)} events at {leg}" for leg, events in captures[side].events.items()))
    verdicts = judge(
        captures["upstream"],
        captures["keepline"],
        dated_by_airflow=DATED_BY_AIRFLOW,
        ended_from_outside=ENDED_FROM_OUTSIDE,
        silent=SELECTIVE,
    )
    remarks = {side: one.remarks for side, one in captures.items() if one.remarks}
    seconds = sum(one.ended - one.began for one in captures.values())
    return Outcome(json.loads(asked.stdout), seconds, verdicts, remarks)


def main() -> int:
    """Run what the command line asks for; give the exit status."""
    parser = argparse.ArgumentParser(prog="python -m parity", description=__doc__)
    parser.add_argument("versions", nargs="*", metavar="VERSION", help=f"of Airflow; {' '.join(VERSIONS)}")
    parser.add_argument("--into", type=Path, default=HERE, help="where RESULTS.md is written")
    parser.add_argument("--work", type=Path, help="where the Airflows and the captures are, and are left")
    parser.add_argument("--reuse", action="store_true", help="take what was captured there before")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="keepline-parity-"))
    outcomes = {}
    try:
        for version in options.versions or VERSIONS:
            outcomes[version] = outcome = outcome_of(version, work.absolute() / version, reuse=options.reuse)
            print("\n".join(["", *table(outcome), *mismatches(outcome.verdicts), ""]), flush=True)
    except (SandboxError, ApiError, OSError) as error:
        print(f"The check failed; its folder is {work}. {error}", file=sys.stderr)
        return 2
    (options.into / "RESULTS.md").write_text(document(outcomes))
    print(f"written: {options.into / 'RESULTS.md'}")
    if not all(outcome.equal for outcome in outcomes.values()):
        print(f"The events differ; both sides' are in {work}.")
        return 1
    if options.work is None:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
