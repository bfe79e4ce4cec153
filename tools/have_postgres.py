"""Have PostgreSQL 15, Airflow's database in tests of executors: ``python3 tools/have_postgres.py``.

It comes from Debian's package. Where it is missing it is installed if that can be done without asking anyone:
by root, with apt-get. The package would start a server of its own on port 5432; that is kept from it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
REMEDY = (
    f"PostgreSQL 15 is missing in {PROGRAMS}, and the tests of executors need it; install Debian's package: "
    "apt-get install postgresql-15"
)
# Debian asks this program whether a package may start its service; 101 means no.
POLICY = Path("/usr/sbin/policy-rc.d")


def have() -> bool:
    """Whether it is there."""
    return all(os.access(PROGRAMS / name, os.X_OK) for name in ("postgres", "initdb", "psql"))


@contextlib.contextmanager
def nothing_started() -> Iterator[None]:
    """Keep packages from starting services, unless somebody has made a rule for that already."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def install() -> None:
    """Install the package; say on stderr what apt-get says when it can't."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "postgresql-15"]):
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            print("\n".join(done.stdout.strip().splitlines()[-12:]), file=sys.stderr)


def main() -> int:
    if not have() and os.geteuid() == 0 and shutil.which("apt-get"):
        print("postgresql-15: installing with apt-get ...", flush=True)
        with nothing_started():
            install()
    if have():
        return 0
    print(REMEDY, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
