"""Run the provider's own tests with Keepline's listener in place: ``python3 tools/provider_tests.py``.

They come in the provider's source distribution, fetched with pip into ``.tools/``. Each runs twice: with the
provider's listener, which shows what fails for reasons of the environment, and with Keepline's. What passes
with the one and not with the other must be named in ``upstream/exceptions.toml``, with its reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import tomllib
from setup_env import ROOT, TOOLS, VENVS, SetupError, pip_command, run, told

UPSTREAM = ROOT / "tools" / "upstream"
DISTRIBUTION = "apache-airflow-providers-openlineage"
AIRFLOWS = {"2.16.0": "2.11.2", "2.20.3": "3.3.2"}
FILES = ("test_listener.py", "test_openlineage.py", "test_execution.py", "test_adapter.py")
MOST_SECONDS = 1200


@dataclass(frozen=True)
class Suite:
    """The tests of one version of the provider, with the Airflow that they run on.

    Args:
        provider: the version.
    """

    provider: str

    @property
    def python(self) -> Path:
        """The interpreter of the environment with that Airflow."""
        return VENVS / f"airflow-{AIRFLOWS[self.provider]}" / "bin" / "python"

    @property
    def folder(self) -> Path:
        """Where all of it is."""
        return TOOLS / "provider-tests" / self.provider

    @property
    def source(self) -> Path:
        """Where the source distribution is unpacked."""
        return self.folder / f"{DISTRIBUTION.replace('-', '_')}-{self.provider}"

    def have(self) -> None:
        """Have the tests, and what they import, fetched and unpacked."""
        constraints = ROOT / "constraints" / f"provider-tests-{self.provider}.txt"
        stamp, wanted = self.folder / "stamp", f"{self.python}\n{constraints.read_text()}"
        if stamp.exists() and stamp.read_text() == wanted:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        pip = pip_command()
        with told(f"tests of the provider {self.provider}: fetching with pip"):
            source = ["--no-deps", "--no-binary", DISTRIBUTION, f"{DISTRIBUTION}=={self.provider}"]
            run(*pip, "download", "--quiet", "--dest", self.folder, *source)
            with tarfile.open(f"{self.source}.tar.gz") as archive:
                archive.extractall(self.folder, filter="data")
            site = ["--no-deps", "--only-binary", ":all:", "--target", self.folder / "site"]
            run(*pip, "--python", self.python, "install", "--quiet", *site, "--requirement", constraints)
        stamp.write_text(wanted)

    def outcomes(self, *, ours: bool) -> dict[str, str]:
        """Run them, and give what became of each.

        Args:
            ours: with Keepline's listener.

        Raises:
            SetupError: they can't be run.
        """
        home = self.folder / ("home-ours" if ours else "home-theirs")
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        report = home / "report.xml"
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(home),
            "AIRFLOW_HOME": str(home),
            "PYTHONPATH": os.pathsep.join(map(str, (self.folder / "site", UPSTREAM))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
            "AIRFLOW__KEEPLINE__DISABLED": "True",  # the listener is put in place for each that is made
        }
        plugin = ["-p", "keepline_in_place"] if ours else []
        options = ["-q", "-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider", "-W", "ignore"]
        tests = [f"tests/unit/openlineage/plugins/{name}" for name in FILES]
        pytest = ["pytest", *options, *plugin, f"--junitxml={report}", *tests]
        for command in (["airflow", "db", "migrate"], pytest):
            with (home / f"{command[0]}.log").open("w") as log:
                subprocess.run(
                    [self.python, "-m", *command],
                    env=env,
                    cwd=self.source,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=MOST_SECONDS,
                    check=False,
                )
        if not report.exists():
            raise SetupError(f"the tests of {self.provider} can't be run; see {home}/pytest.log")
        return {f"{one.get('classname')}::{one.get('name')}": _outcome(one) for one in _cases(report)}


def _cases(report: Path) -> list[ElementTree.Element]:
    return list(ElementTree.parse(report).iter("testcase"))


def _outcome(case: ElementTree.Element) -> str:
    kinds = {"failure": "failed", "error": "failed", "skipped": "skipped"}
    return next((kinds[one.tag] for one in case if one.tag in kinds), "passed")


def compared(
    theirs: dict[str, str], ours: dict[str, str], exceptions: dict[str, str]
) -> tuple[list[str], dict[str, str], list[str]]:
    """Tell what passes with the provider's listener and not with Keepline's.

    Args:
        theirs: what became of each test with the provider's listener.
        ours: the same with Keepline's.
        exceptions: reasons, by the name of the test without its class and parameters.

    Returns:
        the tests without a reason; those with one, and it; the names of exceptions of which no test is one.
    """
    lost = [test for test, outcome in theirs.items() if outcome == "passed" and ours.get(test) != "passed"]
    names = {test: test.rpartition("::")[2].partition("[")[0] for test in lost}
    excused = {test: exceptions[name] for test, name in names.items() if name in exceptions}
    return [one for one in lost if one not in excused], excused, sorted(set(exceptions) - set(names.values()))


def counted(outcomes: dict[str, str]) -> str:
    kinds = ("passed", "failed", "skipped")
    return ", ".join(f"{sum(one == kind for one in outcomes.values())} {kind}" for kind in kinds)


def check(suite: Suite, exceptions: dict[str, str]) -> bool:
    """Run a suite both ways and print how they compare; give whether all is as it is said to be."""
    suite.have()
    airflow = AIRFLOWS[suite.provider]
    theirs, ours = suite.outcomes(ours=False), suite.outcomes(ours=True)
    print(f"provider {suite.provider} on Airflow {airflow}, {len(theirs)} tests")
    print(f"  the provider's listener: {counted(theirs)}")
    print(f"  Keepline's listener:     {counted(ours)}")
    for test in sorted(test for test, outcome in theirs.items() if outcome == "failed"):
        print(f"  fails here with the provider's listener: {test}")
    unknown, excused, stale = compared(theirs, ours, exceptions)
    for test, reason in excused.items():
        print(f"  exception: {test.rpartition('::')[2]}: {' '.join(reason.split())}")
    for test in unknown:
        print(
            f"  NOT EXPECTED: {test} passes with the provider's listener alone; see {suite.folder}/home-ours"
        )
    for name in stale:
        print(f"  NOT EXPECTED: {name} is named as an exception, and is none")
    passed = any(outcome == "passed" for outcome in theirs.values())
    return passed and not unknown and not stale


def main() -> int:
    """Check each suite; return the exit status."""
    listed = tomllib.loads((UPSTREAM / "exceptions.toml").read_text())["exception"]
    good = True
    try:
        for provider in AIRFLOWS:
            exceptions = {one["test"]: one["reason"] for one in listed if provider in one["providers"]}
            good = check(Suite(provider), exceptions) and good
    except (SetupError, subprocess.TimeoutExpired) as error:
        print(f"\nThe provider's tests could not be run. {error}", file=sys.stderr)
        return 1
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
