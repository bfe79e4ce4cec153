"""Looking at processes from outside: which there are, and what each of them costs."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Cost:
    """What a process holds at one moment.

    Args:
        pid: the process.
        title: its command line.
        threads: how many it has.
        fds: open file descriptors.
        connections: established TCP connections, by remote port.
        rss: resident memory, MB of 10^6 bytes; counts pages shared with other processes.
        uss: memory that its end would free, MB; a forked child shares the rest with its parent.

    """

    pid: int
    title: str
    threads: int
    fds: int
    connections: Mapping[int, int]
    rss: float
    uss: float


def cost(pid: int) -> Cost:
    """Measure a process.

    Raises:
        psutil.NoSuchProcess: it has ended.

    """
    process = psutil.Process(pid)
    with process.oneshot():
        memory = process.memory_full_info()
        remote = Counter(
            one.raddr.port
            for one in process.net_connections(kind="tcp")
            if one.status == psutil.CONN_ESTABLISHED
        )
        return Cost(
            pid=pid,
            title=" ".join(process.cmdline()).strip(),
            threads=process.num_threads(),
            fds=process.num_fds(),
            connections=dict(remote),
            rss=memory.rss / 1e6,
            uss=memory.uss / 1e6,
        )


def cpu_percent(pids: Iterable[int], seconds: float) -> dict[int, float]:
    """Measure what processes compute during some time.

    Args:
        pids: the processes.
        seconds: how long to measure.

    Returns:
        Percent of one core, by pid, of those that lived to the end.

    """
    before = {pid: cpu_seconds(pid) for pid in pids}
    began = time.monotonic()
    time.sleep(seconds)
    after = {}
    for pid in before:
        with contextlib.suppress(OSError):
            after[pid] = cpu_seconds(pid)
    elapsed = time.monotonic() - began
    return {pid: 100 * (used - before[pid]) / elapsed for pid, used in after.items()}


def cpu_seconds(pid: int) -> float:
    """CPU seconds that all threads of a process have used: what its own ``time.process_time()`` would say.

    Linux only.

    Raises:
        OSError: there is no such process.
    """
    # What clock_getcpuclockid(3) gives for a process, which Python has for threads only.
    return time.clock_gettime((~pid << 3) | 2)


def alive(process: psutil.Process) -> bool:
    """Tell whether a process runs; one that has ended and waits to be reaped doesn't."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def by_session(sessions: Iterable[int]) -> dict[int, list[psutil.Process]]:
    """Find the living processes of sessions, also those whose parent has died.

    Args:
        sessions: session ids.

    Returns:
        The processes by session, without the sessions that have none.
    """
    wanted = set(sessions)
    found: dict[int, list[psutil.Process]] = {}
    for one in psutil.process_iter():
        with contextlib.suppress(OSError):
            session = os.getsid(one.pid)
            if session in wanted and alive(one):
                found.setdefault(session, []).append(one)
    return found


def with_variable(name: str, value: str) -> list[psutil.Process]:
    """Find the living processes that were started with a variable in their environment.

    One that has changed its title may not be found: the title is written over the environment.
    """
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if one.environ().get(name) == value and alive(one):
                found.append(one)
    return found


def end(processes: Iterable[psutil.Process], *, grace: float, timeout: float = 10.0) -> None:
    """End processes: ask, wait, kill.

    Args:
        processes: which; those that have ended already don't matter.
        grace: seconds between SIGTERM and SIGKILL; 0 kills at once.
        timeout: longest wait after the SIGKILL, seconds.

    Raises:
        TimeoutError: one is there even so.

    """
    left = list(processes)
    if grace > 0:
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.terminate()
        _, left = psutil.wait_procs(left, timeout=grace)
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    _, left = psutil.wait_procs(left, timeout=timeout)
    left = [one for one in left if alive(one)]
    if left:
        raise TimeoutError(f"processes {[one.pid for one in left]} haven't ended {timeout} s after SIGKILL")
