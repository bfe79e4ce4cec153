"""The server that every benchmark delivers to: one nginx worker on loopback, which answers 201.

A plain ``return 201`` would answer before the body has come. Here `mirror` has nginx read all of it into
memory first, after which nothing is left to be done: a location that knows GET alone refuses the POST, and
the refusal becomes a 201. What nginx has counted of connections and requests is at ``/status``.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType

import psutil

from keepline.demo.processes import cpu_seconds

CONFIGURATION = """
daemon off; pid {folder}/pid; worker_processes 1; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_header_buffer_size 16k; client_body_buffer_size 1m; client_max_body_size 64m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{ mirror /read; stub_status; error_page 405 = @created; }}
    location = /read {{ internal; return 204; }}
    location @created {{ return 201; }}
    location = /status {{ stub_status; }}
  }}
}}
"""
_START_SECONDS = 10.0


@dataclass(frozen=True)
class Counted:
    """What nginx has counted, without what this process has asked it.

    Args:
        requests: that it has had.
        opened: connections that were opened.
        active: connections that are open now.
    """

    requests: int
    opened: int
    active: int


def program() -> str:
    """Where nginx is; ends this program with the remedy where it isn't."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise SystemExit("nginx is not installed; install Debian's package: apt-get install nginx-light")
    return found


def version() -> str:
    said = subprocess.run([program(), "-v"], capture_output=True, text=True, check=True).stderr
    return said.strip().rpartition("/")[2]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Nginx:
    """An nginx from ``with`` to its end.

    Args:
        port: where it listens; a free one when there is none given.
    """

    def __init__(self, port: int | None = None) -> None:
        self._port = port or free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._asked = 0

    def __enter__(self) -> Nginx:
        # Made for nginx alone: it runs as nobody where this program is root's.
        self._folder = Path(tempfile.mkdtemp(prefix="keepline-nginx-"))
        configuration = self._folder / "nginx.conf"
        configuration.write_text(CONFIGURATION.format(folder=self._folder, port=self._port))
        command = [program(), "-p", str(self._folder), "-c", str(configuration), "-e", "stderr"]
        if os.geteuid() == 0:
            shutil.chown(self._folder, "nobody", "nogroup")
            self._process = subprocess.Popen(command, user="nobody", group="nogroup", extra_groups=[])
        else:
            self._process = subprocess.Popen(command)
        try:
            self._wait()
            self._status = HTTPConnection("127.0.0.1", self._port, timeout=30)
            self.look()  # When it answers, its worker is there.
            self._worker = psutil.Process(self._process.pid).children()[0].pid
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.close()
        self._end()

    def look(self) -> Counted:
        """What it has counted since its start."""
        self._asked += 1
        self._status.request("GET", "/status")
        # "Active connections: 1 \nserver accepts handled requests\n 1 1 1 \nReading: ..."
        words = self._status.getresponse().read().split()
        # One connection is this one, and one was made to see that it listens.
        return Counted(int(words[9]) - self._asked, int(words[7]) - 2, int(words[2]) - 1)

    def cpu(self) -> float:
        """CPU seconds that it has used."""
        return cpu_seconds(self._worker)

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self._port)):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"nginx doesn't start on port {self._port}; what it says stands above")
            time.sleep(0.01)

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
