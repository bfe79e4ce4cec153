"""Run the matrix: a live Airflow in every environment of ``constraints/``, and what holds on each of them.

``python3 tools/matrix.py`` makes the environments one after another, runs ``tests/acceptance/test_matrix.py``
on each, and writes what came of it between the markers in ``README.md`` and ``docs/matrix.md``. With names of
environments it runs those alone, and writes nothing. Needs what ``setup_env.py`` needs.

Exit status: 0 when every cell has passed, 1 when one hasn't, 2 for a wrong name, 130 when interrupted.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import setup_env

RESULTS = setup_env.ROOT / "build" / "matrix"
TESTS = Path("tests", "acceptance", "test_matrix.py")
DEV = setup_env.VENVS / "dev" / "bin" / "python"
BEGIN, END = "<!-- matrix: written by `make matrix` -->", "<!-- /matrix -->"
CELL = re.compile(r"airflow-[\d.]+(-openlineage-[\d.]+)?")  # others are for tests of other things
LONGEST = 1200.0  # seconds for a cell

VERSIONS = {
    "apache-airflow": "Airflow",
    "apache-airflow-providers-openlineage": "provider",
    "openlineage-python": "openlineage-python",
    "python": "Python",
    "sqlalchemy": "SQLAlchemy",
}
ASK = (
    "import json, sys; from importlib.metadata import version; "
    "print(json.dumps({'python': '.'.join(map(str, sys.version_info[:3])), "
    "**{name: version(name) for name in sys.argv[1:]}}))"
)
# What the tests record of a cell, and how the table calls it.
FIGURES = {
    "events": "events",
    "again": "came again",
    "stopping": "SIGTERM to end",
    "threads": "threads of a pool worker",
}


@dataclass
class Result:
    """What came of a cell.

    Args:
        versions: of its distributions, by name.
        passed: how many tests have.
        failed: names of those that haven't.
        figures: what the tests recorded.
        seconds: how long it took, without making the environment.
    """

    versions: dict[str, str]
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether every test has passed."""
        return self.passed > 0 and not self.failed

    def cells(self) -> dict[str, str]:
        """Give its line of the table, by the heads of the columns."""
        words = f"{self.passed} of {self.passed + len(self.failed)}"
        return {
            **{head: self.versions[name] for name, head in VERSIONS.items()},
            **{head: self.figures.get(name, "") for name, head in FIGURES.items()},
            "time": f"{self.seconds:.0f} s",
            "result": f"pass, {words}" if self.good else f"**fail**, {words}",
        }


def run_cell(name: str) -> Result:
    """Run the tests on an environment; what they print is kept in a file if they fail.

    Raises:
        setup_env.SetupError: its Python doesn't tell what it has.
    """
    python = setup_env.VENVS / name / "bin" / "python"
    result = Result(
        json.loads(setup_env.run(python, "-c", ASK, *(one for one in VERSIONS if one != "python")))
    )
    folder = RESULTS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    report = folder / "report.xml"
    command = [DEV, "-m", "pytest", TESTS, "--airflow", name.partition("airflow-")[2]]
    options = ["--capture=no", f"--junitxml={report}", f"--basetemp={folder / 'tmp'}"]
    began = time.monotonic()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, *options], cwd=setup_env.ROOT, stdout=log, stderr=log)
        try:
            process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            process.terminate()
        finally:
            process.wait()
    result.seconds = time.monotonic() - began
    read_report(report, result)
    if result.good:
        shutil.rmtree(folder)
    return result


def read_report(report: Path, result: Result) -> None:
    """Take from pytest's report what came of each test, and what was recorded."""
    try:
        tree = ElementTree.parse(report)
    except (OSError, ElementTree.ParseError):
        result.failed.append("the tests have ended without a report")
        return
    for case in tree.iter("testcase"):
        name = str(case.get("name")).partition("[")[0]
        if any(case.find(what) is not None for what in ("failure", "error", "skipped")):
            result.failed.append(name)
        else:
            result.passed += 1
    result.figures = {str(one.get("name")): str(one.get("value")) for one in tree.iter("property")}


def write(name: str, results: list[Result], columns: list[str]) -> None:
    """Write a table, in Markdown, between the markers of a file.

    Args:
        name: of the file.
        results: a line for each.
        columns: the heads of those wanted.

    Raises:
        setup_env.SetupError: it hasn't the markers.
    """
    path = setup_env.ROOT / name
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise setup_env.SetupError(f"{name} lacks the markers {BEGIN} and {END}")
    rows = [[one.cells()[head] for head in columns] for one in results]
    lines = ["| " + " | ".join(line) + " |" for line in (columns, ["---"] * len(columns), *rows)]
    path.write_text("\n".join([before + begin, *lines, end + after]))


def order(name: str) -> list[int]:
    """Sort by version of Airflow, then of the provider; the one without a provider's is an Airflow's own."""
    pinned = setup_env.pins(name)
    return [
        int(number)
        for one in ("apache-airflow", "apache-airflow-providers-openlineage")
        for number in re.findall(r"\d+", pinned[one].partition("==")[2])
    ]


def main(names: list[str]) -> int:
    cells = sorted(filter(CELL.fullmatch, setup_env.environments()), key=order)
    if any(name not in cells for name in names):
        print(f"usage: matrix.py [NAME...]   with names of: {', '.join(cells)}", file=sys.stderr)
        return 2
    chosen = names or cells
    if status := setup_env.main(["dev"]):
        return status
    results = []
    try:
        for number, name in enumerate(chosen, 1):
            if status := setup_env.main([name]):
                return status
            print(f"{number:2} of {len(chosen)}  {name:<34}", end=" ", flush=True)
            results.append(result := run_cell(name))
            print(f"{'pass' if result.good else 'FAIL'} {result.seconds:6.1f} s", flush=True)
            for what in result.failed:
                print(f"          {what}")
            if not result.good:
                print(f"          see {(RESULTS / name / 'log').relative_to(setup_env.ROOT)}", flush=True)
        if not names:
            write("README.md", results, [*VERSIONS.values(), "result"])
            write("docs/matrix.md", results, [*VERSIONS.values(), *FIGURES.values(), "time", "result"])
    except setup_env.SetupError as error:
        print(f"\nThe matrix failed. {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nThe matrix was interrupted; nothing is written.", file=sys.stderr)
        return 130
    good = sum(one.good for one in results)
    print(f"{good} of {len(results)} cells passed")
    return 0 if good == len(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
