from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from keepline.demo.destination import RecordingDestination
from keepline.demo.processes import cost, cpu_seconds

SOON = 10

HOLDER = """
import socket, sys, threading
files = [open("/dev/null") for _ in range(7)]
sockets = [socket.create_connection(("127.0.0.1", int(port))) for port in sys.argv[1:]]
for _ in range(3):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_cost_counts_threads_files_memory_and_connections_by_port():
    with RecordingDestination() as one, RecordingDestination() as other:
        ports = [int(destination.url.rpartition(":")[2]) for destination in (one, one, other)]
        command = [sys.executable, "-c", HOLDER, *map(str, ports)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n"
            taken = cost(holder.pid)
            assert taken.connections == {ports[0]: 2, ports[2]: 1}
            one.down()
            assert cost(holder.pid).connections == {ports[2]: 1}
            holder.kill()

    assert taken.threads == 4
    assert taken.fds == 3 + 7 + 3
    assert 3 < taken.rss < 100
    assert 0 < taken.uss <= taken.rss


def test_cpu_seconds_are_what_the_process_itself_would_say():
    before = time.process_time()
    seen = cpu_seconds(os.getpid())
    assert before <= seen <= time.process_time()


def test_a_process_that_is_gone_has_neither():
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    with pytest.raises(psutil.NoSuchProcess):
        cost(gone.pid)
    with pytest.raises(OSError, match=r"."):
        cpu_seconds(gone.pid)
