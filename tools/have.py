"""Have servers that tests and benchmarks need: ``python3 tools/have.py nginx postgresql``.

They come from Debian's packages. What is missing is installed if that can be done without asking anyone: by
root, with apt-get. The packages would start servers of their own; that is kept from them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Server(NamedTuple):
    """What is had.

    Args:
        package: Debian's.
        programs: that have to be there.
        folders: where they may be, besides ``PATH``.
        use: who needs it.
    """

    package: str
    programs: tuple[str, ...]
    folders: tuple[str, ...]
    use: str


SERVERS = {
    "nginx": Server("nginx-light", ("nginx",), ("/usr/sbin", "/usr/local/sbin"), "the benchmarks need it"),
    "postgresql": Server(
        "postgresql-15",
        ("postgres", "initdb", "psql"),
        ("/usr/lib/postgresql/15/bin",),
        "the tests of executors need it",
    ),
}
# Debian asks this program whether a package may start its service; 101 means no.
POLICY = Path("/usr/sbin/policy-rc.d")


def have(server: Server) -> bool:
    """Whether it is there."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *server.folders])
    return all(shutil.which(program, path=path) for program in server.programs)


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


def install(package: str) -> None:
    """Install a package; say on stderr what apt-get says when it can't."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", package]):
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


def main(names: list[str]) -> int:
    """Have the servers of these names; the exit status is 1 when one is missing even so."""
    if not names or not SERVERS.keys() >= set(names):
        print(f"usage: have.py NAME...   with names of: {', '.join(SERVERS)}", file=sys.stderr)
        return 2
    missing = 0
    for name in names:
        server = SERVERS[name]
        if not have(server) and os.geteuid() == 0 and shutil.which("apt-get"):
            print(f"{server.package}: installing with apt-get ...", flush=True)
            with nothing_started():
                install(server.package)
        if not have(server):
            missing += 1
            remedy = f"install Debian's package: apt-get install {server.package}"
            print(f"{name} is missing, and {server.use}; {remedy}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
