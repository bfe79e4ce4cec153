"""What an emit costs the process that emits: keepline's and that of the client's http transport.

Side by side, in one process: the client's `http` transport against a local server that answers 201 at once;
keepline's transport that only appends (`relay: external`); and keepline's transport whose relay delivers to
the same server meanwhile (`relay: auto`). They take turns in two ways: after many emits each, so that each
works with warm caches; and after every single one, so that each finds caches that the others have filled.

Then sixteen processes at once: at a pace at which they needn't wait for the processors, and in a tight loop,
in which they do. There, `cpu` tells what an emit itself took, without the time in which others ran.

Times are microseconds an emit. Ratios hold on other machines, absolute times don't.

    python bench/emit.py [--rounds 5000] [--processes 16] [--events 2000] [--pace 0.008] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from openlineage.client.constants import __version__ as client_version
from openlineage.client.serde import Serde
from openlineage.client.transport.http import HttpConfig, HttpTransport
from serialise import events

from keepline.outbox.files import OutboxFiles
from keepline.outbox.status import read_status
from keepline.relay.launch import stop
from keepline.transport import Transport, TransportConfig

EVENT = events()["task start"]
ANSWER = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
NGINX = """
daemon off; pid {folder}/nginx.pid; error_log stderr crit; worker_processes 1;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {folder}/body; keepalive_requests 100000000;
  server {{ listen 127.0.0.1:{port}; location / {{ return 201; }} }}
}}
"""

Emit = Callable[[Any], object]


# The server


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, str]]:
    """A server in a process of its own that answers 201 at once: what it is, and its URL."""
    nginx = shutil.which("nginx")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        if nginx is None:
            listener.listen(512)
            pid = forked(lambda: answer_for_ever(listener))
    if nginx is not None:
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
        pid = subprocess.Popen([nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")]).pid
    try:
        wait_for_port(port)
        yield "nginx" if nginx else "an epoll loop in Python", f"http://127.0.0.1:{port}"
    finally:
        os.kill(pid, 15)
        os.waitpid(pid, 0)


def wait_for_port(port: int) -> None:
    while True:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.01)


def answer_for_ever(listener: socket.socket) -> None:
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    unread: dict[int, bytes] = {}
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[connection.fileno()] = connection
                poll.register(connection, select.EPOLLIN)
                continue
            try:
                data = connections[fd].recv(1 << 18)
            except ConnectionError:
                data = b""
            if data:
                unread[fd] = answer(connections[fd], unread.pop(fd, b"") + data)
            else:
                connections.pop(fd).close()
                unread.pop(fd, None)


def answer(connection: socket.socket, data: bytes) -> bytes:
    """Answer each whole request; what is left of the next one."""
    while (head := data.find(b"\r\n\r\n")) >= 0:
        headers = data[:head].lower()
        at = headers.find(b"content-length:")
        length = int(headers[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(data) < head + 4 + length:
            break
        data = data[head + 4 + length :]
        connection.sendall(ANSWER)
    return data


def forked(function: Callable[[], object]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    return pid


# What is measured


def keepline(folder: Path, url: str, relay: str) -> Transport:
    legs = {"local": {"type": "http", "url": url}}
    return Transport(TransportConfig.from_dict({"outbox": str(folder), "relay": relay, "transports": legs}))


def summary(times: list[float]) -> dict[str, float]:
    centiles = statistics.quantiles(times, n=1000, method="inclusive")
    return {
        "p50": round(centiles[499], 1),
        "p99": round(centiles[989], 1),
        "p99.9": round(centiles[998], 1),
        "worst": round(max(times), 1),
    }


def side_by_side(folder: Path, url: str, rounds: int, block: int) -> dict[str, Any]:
    """As many emits of each as there are rounds, taking turns after each block."""
    emits: dict[str, Emit] = {
        "client http": HttpTransport(HttpConfig.from_dict({"url": url})).emit,
        "keepline external": keepline(folder / "external", url, "external").emit,
        "keepline auto": keepline(folder / "auto", url, "auto").emit,
    }
    times: dict[str, list[float]] = {name: [] for name in emits}
    for emit in emits.values():
        for _ in range(200):
            emit(EVENT)
    # Each of keepline's after the client's, so that neither warms the caches for the other.
    turns = ("client http", "keepline external", "client http", "keepline auto")
    for _ in range(rounds // block):
        for name in turns:
            emit, kept = emits[name], times[name]
            for _ in range(block):
                began = time.perf_counter_ns()
                emit(EVENT)
                kept.append((time.perf_counter_ns() - began) / 1000)
    delivered = wait_for_delivery(folder / "auto")
    result: dict[str, Any] = {name: summary(taken) for name, taken in times.items()}
    for name in emits:
        result[name]["ratio"] = {
            p: round(result["client http"][p] / result[name][p], 1) for p in ("p50", "p99")
        }
    return {"emits": result, "delivered": delivered, "appended": 200 + rounds // block * block}


def wait_for_delivery(outbox: Path) -> int:
    """Let the relay deliver everything, end it, and tell how much it delivered."""
    files = OutboxFiles(outbox)
    deadline = time.monotonic() + 120
    while not (found := read_status(files)).settled and time.monotonic() < deadline:
        time.sleep(0.1)
    stop(files, 30)
    return sum(one.delivered for one in found.destinations)


def at_once(
    folder: Path, url: str, relay: str, processes: int, many: int, pace: float | None
) -> dict[str, Any]:
    """Processes that emit at the same time, each all its events, one every `pace` seconds if given."""
    waiting, starting = os.pipe()

    def emit_all(number: int) -> None:
        os.close(starting)
        transport = keepline(folder / "outbox", url, relay)
        transport.emit(EVENT)
        wall, cpu = [], []
        os.read(waiting, 1)
        # So that they don't keep step with one another.
        turn = time.monotonic() + (pace or 0.0) * number / processes
        for _ in range(many):
            if pace:
                turn += pace
                time.sleep(max(turn - time.monotonic(), 0.0))
            before, began = time.thread_time_ns(), time.perf_counter_ns()
            transport.emit(EVENT)
            taken, spent = time.perf_counter_ns() - began, time.thread_time_ns() - before
            wall.append(taken / 1000)
            cpu.append(spent / 1000)
        (folder / f"{number}.json").write_text(json.dumps({"wall": wall, "cpu": cpu}))

    folder.mkdir()
    pids = [forked(lambda number=number: emit_all(number)) for number in range(processes)]  # type: ignore[misc]
    os.close(waiting)
    time.sleep(1.0)
    began = time.monotonic()
    os.close(starting)
    for pid in pids:
        os.waitpid(pid, 0)
    took = time.monotonic() - began
    times: dict[str, list[float]] = {"wall": [], "cpu": []}
    for number in range(processes):
        for kind, values in json.loads((folder / f"{number}.json").read_text()).items():
            times[kind] += values
    result: dict[str, Any] = {kind: summary(values) for kind, values in times.items()}
    result["events a second"] = round(processes * many / took)
    result["appended"] = processes * (many + 1)
    if relay == "auto":
        result["delivered"] = wait_for_delivery(folder / "outbox")
    return result


def measured(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="keepline-bench-", dir=options.folder) as name:
        folder = Path(name)
        with server(folder) as (kind, url):
            result: dict[str, Any] = {
                "python": platform.python_version(),
                "openlineage-python": client_version,
                "processors": os.cpu_count(),
                "server": kind,
                "bytes": len(Serde.to_json(EVENT)),
                "rounds": options.rounds,
                "side by side": {
                    label: side_by_side(folder / str(block), url, options.rounds, block)
                    for label, block in (("turns of 250 emits", 250), ("turns of one emit", 1))
                },
                "processes": options.processes,
                "events": options.events,
                "pace": options.pace,
                "at once": {},
            }
            for label, relay, pace in (
                ("paced, relay: external", "external", options.pace),
                ("paced, relay: auto", "auto", options.pace),
                ("tight loop, relay: external", "external", None),
            ):
                result["at once"][label] = at_once(
                    folder / label.replace(" ", "-"), url, relay, options.processes, options.events, pace
                )
            return result


def show(result: dict[str, Any]) -> None:
    print(
        f"python {result['python']}, openlineage-python {result['openlineage-python']}, "
        f"{result['processors']} processors, an event of {result['bytes']} bytes, microseconds an emit"
    )
    print(f"\nside by side, {result['rounds']} emits each; the server is {result['server']}")
    for label, side in result["side by side"].items():
        print(f"{label:<32}{'p50':>9}{'p99':>9}{'p99.9':>9}{'worst':>10}{'http/p50':>10}{'http/p99':>10}")
        for name, row in side["emits"].items():
            print(f"  {name:<30}{row['p50']:>9}{row['p99']:>9}{row['p99.9']:>9}{row['worst']:>10}", end="")
            print(f"{row['ratio']['p50']:>9}x{row['ratio']['p99']:>9}x")
        print(f"  the relay delivered {side['delivered']} of {side['appended']}")
    print(f"\n{result['processes']} processes at once, {result['events']} events each; ", end="")
    print(f"paced: one every {result['pace'] * 1000:g} ms")
    print(f"{'':<32}{'p50':>9}{'p99':>9}{'p99.9':>9}{'worst':>10}{'events/s':>10}")
    for name, row in result["at once"].items():
        for title, kind in ((name, "wall"), ("  cpu", "cpu")):
            times = row[kind]
            print(
                f"{title:<32}{times['p50']:>9}{times['p99']:>9}{times['p99.9']:>9}{times['worst']:>10}",
                end="",
            )
            print(f"{row['events a second']:>10}" if kind == "wall" else "")
        if "delivered" in row:
            print(f"  the relay delivered {row['delivered']} of {row['appended']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5000, help="emits of each, side by side (5000)")
    parser.add_argument("--processes", type=int, default=16, help="processes at once (16)")
    parser.add_argument("--events", type=int, default=2000, help="emits of each process (2000)")
    parser.add_argument("--pace", type=float, default=0.008, help="seconds between them, if paced (0.008)")
    parser.add_argument("--folder", help="where to make the outboxes (the folder for temporary files)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    result = measured(options)
    if options.json:
        json.dump(result, sys.stdout, indent=2)
        print()
    else:
        show(result)


if __name__ == "__main__":
    main()
