"""What a process takes of its machine, seen from outside. Linux only: it reads ``/proc``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
ESTABLISHED = "01"


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process takes at one instant.

    Args:
        threads: how many it has.
        open_files: file descriptors, sockets included.
        rss_mb: resident memory, in MB of 10^6 bytes.
        connections: established TCP connections to the ports that were asked for.
    """

    threads: int
    open_files: int
    rss_mb: float
    connections: int


def footprint(pid: int, ports: Iterable[int]) -> Footprint:
    """Look at a process.

    Args:
        pid: of a process of this user.
        ports: the remote TCP ports to count IPv4 connections to.

    Raises:
        OSError: there is no such process, or no ``/proc``.
    """
    fields = dict(
        line.split(":", 1) for line in (PROC / str(pid) / "status").read_text().splitlines() if ":" in line
    )
    if "VmRSS" not in fields:
        raise ProcessLookupError(f"process {pid} has ended and is only waited for")
    files = _open_files(pid)
    sockets = _connected_sockets(pid, set(ports))
    return Footprint(
        threads=int(fields["Threads"]),
        open_files=len(files),
        rss_mb=int(fields["VmRSS"].split()[0]) * 1024 / 1e6,
        connections=sum(file in sockets for file in files),
    )


def cpu_seconds(pid: int) -> float:
    """CPU seconds that all threads of a process have used: what its own ``time.process_time()`` would say.

    Raises:
        OSError: there is no such process.
    """
    # What clock_getcpuclockid(3) gives for a process, which Python has for threads only.
    return time.clock_gettime((~pid << 3) | 2)


def _open_files(pid: int) -> list[str]:
    files = []
    for entry in (PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            files.append(str(entry.readlink()))
    return files


def _connected_sockets(pid: int, ports: set[int]) -> set[str]:
    found = set()
    for line in (PROC / str(pid) / "net" / "tcp").read_text().splitlines()[1:]:
        _, _, remote, state, *_, inode = line.split()[:10]
        if state == ESTABLISHED and int(remote.partition(":")[2], 16) in ports:
            found.add(f"socket:[{inode}]")
    return found
