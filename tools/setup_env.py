"""Make the project's environments from pinned constraints: ``python3 tools/setup_env.py dev airflow-3.3.2``.

Needs a Python with pip, and nothing else. uv, fetched with pip into ``.tools/``, makes ``.venv/NAME`` and
installs what ``constraints/NAME.txt`` pins, and keepline itself, editable. An environment whose name goes on
after that of another, as ``airflow-3.3.2-openlineage-2.14.0``, has the other's pins but for those of its own
file. Where uv can't be had, or with ``KEEPLINE_INSTALLER=pip``, venv and pip do the same, slower. The last
thing written to an environment is a stamp of all that it was made from: one whose stamp is missing
(interrupted) or differs is made anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
VENVS = ROOT / ".venv"
TOOLS = ROOT / ".tools"
CONSTRAINTS = ROOT / "constraints"
OTHER_PROVIDER = "-openlineage-"
UV = "uv==0.13.9"
WAIT_FOR_OTHER_SETUP = 900  # seconds

# The Python versions, first and last, on which the constraints of each environment are known to install, and
# of those with another provider.
PYTHONS = {
    "dev": ((3, 11), (3, 13)),
    "airflow-2.11.2": ((3, 11), (3, 12)),
    "airflow-3.0.6": ((3, 11), (3, 12)),
    "airflow-3.1.8": ((3, 11), (3, 13)),
    "airflow-3.3.2": ((3, 11), (3, 13)),
    "airflow-3.3.2-celery": ((3, 11), (3, 13)),
    "airflow-2.11.2-celery": ((3, 11), (3, 12)),
}

ENVIRONMENT = {
    "UV_SYSTEM_CERTS": "1",  # as pip: a company's own certificate authority is known to the system only
    **os.environ,
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_REQUIRE_VIRTUALENV": "0",  # a user's setting of this or the next would forbid `pip install --target`
    "PIP_USER": "0",
    "PIP_ROOT_USER_ACTION": "ignore",
    # Compiled now: else, with PYTHONDONTWRITEBYTECODE, each Airflow process would compile all it imports.
    "UV_COMPILE_BYTECODE": "1",
    "UV_PYTHON_DOWNLOADS": "never",
}


class SetupError(Exception):
    """An environment can't be made; the message says why and what to do."""


class NoPipError(SetupError):
    """There is no pip and no way to one: trying anything else is in vain."""


def run(*command: str | Path) -> str:
    """Run a command silently and return what it printed.

    Raises:
        SetupError: it can't be run or failed; carries the end of what it printed.

    """
    shown = " ".join(map(str, command))
    try:
        done = subprocess.run(
            command, env=ENVIRONMENT, cwd=ROOT, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, text=True
        )
    except OSError as error:
        raise SetupError(f"`{shown}` can't be run: {error}") from error
    if done.returncode:
        said = "\n".join(done.stdout.strip().splitlines()[-12:])
        raise SetupError(f"`{shown}` ended with {done.returncode}:\n{said}")
    return done.stdout


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Print what is being done, then how long it took."""
    print(f"{what} ...", end=" ", flush=True)
    began = time.monotonic()
    try:
        yield
    except BaseException:
        print("failed", flush=True)
        raise
    print(f"{time.monotonic() - began:.1f} s", flush=True)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keep other set-ups of this tree out; wait for one that is at it, but not for ever."""

    def give_up(*_: object) -> None:
        raise SetupError(f"the other set-up went on for {WAIT_FOR_OTHER_SETUP} s; end it, then try again")

    VENVS.mkdir(exist_ok=True)
    with (VENVS / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another set-up is at work here; waiting for it", flush=True)
            signal.signal(signal.SIGALRM, give_up)
            signal.alarm(WAIT_FOR_OTHER_SETUP)
            fcntl.flock(lock, fcntl.LOCK_EX)
            signal.alarm(0)
        yield


def environments() -> list[str]:
    """Name every environment: those that have constraints and a known range of Python versions."""
    names = (path.stem for path in CONSTRAINTS.glob("*.txt"))
    return sorted(name for name in names if base(name) in PYTHONS)


def base(name: str) -> str:
    """Name the environment whose constraints are those of ``name`` but for the ones that it changes."""
    return name.partition(OTHER_PROVIDER)[0]


def pins(name: str) -> dict[str, str]:
    """Give the requirements of environment ``name``, one for each distribution, by its name.

    Raises:
        SetupError: one isn't pinned.
    """
    found = {}
    for source in dict.fromkeys((base(name), name)):
        for line in (CONSTRAINTS / f"{source}.txt").read_text().splitlines():
            requirement = line.partition("#")[0].strip()
            if not requirement:
                continue
            distribution, pinned, _ = requirement.partition("==")
            if not pinned:
                raise SetupError(f"constraints/{source}.txt doesn't pin `{requirement}`; write NAME==VERSION")
            found[re.sub(r"[-_.]+", "-", distribution).lower()] = requirement
    return found


def interpreter(name: str) -> tuple[str, str]:
    """Find a Python for environment ``name``: this one if it fits, else the newest fitting one on PATH.

    Returns:
        Its path, and its full version.

    """
    first, last = PYTHONS[base(name)]
    fitting = [f"python3.{minor}" for minor in range(last[1], first[1] - 1, -1)]
    ask = "import json, sys; print(json.dumps([sys.executable, *sys.version_info[:3]]))"
    for candidate in [sys.executable, *fitting]:
        # A name on PATH may be a version manager's stand-in that runs nothing: only an answer counts.
        with contextlib.suppress(SetupError, ValueError):
            path, *version = json.loads(run(candidate, "-c", ask))
            if first <= tuple(version[:2]) <= last:
                return path, ".".join(map(str, version))
    raise SetupError(
        f"{name} needs a Python from 3.{first[1]} to 3.{last[1]}; {sys.executable} is "
        f"{sys.version.split()[0]}, and none of {', '.join(fitting)} is on PATH. Install one, or name one: "
        f"make PYTHON=/path/to/{fitting[-1]} ..."
    )


def pip_command() -> list[str]:
    """Give the command of a pip that can fetch tools; make one in ``.tools/`` if this Python has none."""
    with contextlib.suppress(SetupError):
        run(sys.executable, "-m", "pip", "--version")
        return [sys.executable, "-m", "pip"]
    try:
        run(sys.executable, "-m", "venv", "--clear", TOOLS / "venv")
    except SetupError:
        raise NoPipError(
            f"{sys.executable} has neither pip nor what venv needs to bring it. "
            "Install pip (Debian, Ubuntu: apt install python3-pip), then try again."
        ) from None
    return [str(TOOLS / "venv" / "bin" / "python"), "-m", "pip"]


def tool(requirement: str, *probe: str | Path) -> None:
    """Have a distribution in ``.tools/``, fetched with ``pip install --target``: no rights or venv needed.

    Args:
        requirement: what to have, for example ``uv==0.13.9``.
        probe: a command that succeeds when it is there and whole.

    """
    with contextlib.suppress(SetupError):
        run(*probe)
        return
    folder = TOOLS / requirement.partition("=")[0]
    with told(f"{requirement}: fetching with pip"):
        shutil.rmtree(folder, ignore_errors=True)
        run(*pip_command(), "install", "--quiet", "--target", folder, requirement)
        run(*probe)


def with_uv(name: str, python: str) -> None:
    """Make environment ``name`` with uv."""
    uv, venv = TOOLS / "uv" / "bin" / "uv", VENVS / name
    tool(UV, uv, "--version")
    run(uv, "venv", "--quiet", "--clear", "--python", python, venv)
    fill(name, [uv, "pip"], "--python", venv / "bin" / "python")


def with_pip(name: str, python: str) -> None:
    """Make environment ``name`` with venv and pip."""
    pip, venv = TOOLS / "pip" / "pip", VENVS / name
    tool("pip", sys.executable, pip, "--version")
    run(python, "-m", "venv", "--clear", "--without-pip", venv)  # Debian's plain Python can't put pip in
    fill(name, [venv / "bin" / "python", pip])


def fill(name: str, pip: list[str | Path], *options: str | Path) -> None:
    """Install an environment's constraints and keepline into it, and see that nothing is missing.

    Args:
        name: of the environment.
        pip: the command that has ``install`` and ``check``.
        options: of both.
    """
    requirements = VENVS / name / "requirements.txt"
    pinned = pins(name).values()
    requirements.write_text("".join(f"{one}\n" for one in pinned))
    with told(f"{name}: installing {len(pinned)} distributions"):
        install = [*pip, "install", "--quiet", *options]
        run(*install, "--requirement", requirements)
        run(*install, "--no-deps", "--no-build-isolation", "--editable", ROOT)
        run(*pip, "check", *options)


def have(name: str) -> None:
    """Have environment ``name``, finished and up to date."""
    python, version = interpreter(name)
    digest = hashlib.sha256("\n".join(pins(name).values()).encode())
    for source in (ROOT / "pyproject.toml", Path(__file__)):
        digest.update(source.read_bytes())
    # The tree's place counts: scripts and the editable installation name it, so a moved tree is made anew.
    wanted = f"{version} {python} {ROOT} {digest.hexdigest()}\n"
    stamp = VENVS / name / "stamp"
    if stamp.exists() and stamp.read_text() == wanted and os.access(VENVS / name / "bin" / "python", os.X_OK):
        return
    if os.environ.get("KEEPLINE_INSTALLER") == "pip":
        with_pip(name, python)
    else:
        try:
            with_uv(name, python)
        except NoPipError:
            raise
        except SetupError as error:  # pip has settings that uv doesn't read, such as an index
            print(f"uv can't do it: {error}\nGoing on with venv and pip, which takes longer.", flush=True)
            with_pip(name, python)
    stamp.write_text(wanted)


def main(names: list[str]) -> int:
    """Have the environments ``names``; say what went wrong on stderr and return the exit status."""
    known = environments()
    if not names or any(name not in known for name in names):
        print(f"usage: setup_env.py NAME...   with names of: {', '.join(known)}", file=sys.stderr)
        return 2
    try:
        with alone():
            for name in names:
                have(name)
    except SetupError as error:
        print(f"\nThe set-up failed. {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nThe set-up was interrupted; the next one starts where this one stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
