"""Be a scheduler that sends metrics to a receiver in this process; tell what came, and what was started.

Arguments: the kind of metrics; how many reports to wait for; seconds that a look may take; the words of the
command line.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from probe import argument, give, listener, listener_manager, run

LAST = "keepline.pool.refused"  # of each report

received: list[tuple[str, float]] = []
_more = threading.Condition()


def take(found: list[tuple[str, float]]) -> None:
    with _more:
        received.extend(found)
        _more.notify_all()


def wait_for(condition: Callable[[], bool]) -> None:
    with _more:
        assert _more.wait_for(condition, 50), sorted(received)


def statsd() -> int:
    """A receiver of statsd's datagrams; gives its port."""
    ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ours.bind(("127.0.0.1", 0))

    def receive() -> None:
        while True:
            take([parsed(line) for line in ours.recv(65536).decode().splitlines() if "keepline" in line])

    threading.Thread(target=receive, name="receiver", daemon=True).start()
    port: int = ours.getsockname()[1]
    return port


def parsed(line: str) -> tuple[str, float]:
    """``name:value|g``, where Datadog's tags come behind ``|#``."""
    name, _, rest = line.partition(":")
    value, kind, *tags = rest.split("|")
    assert kind == "g", line
    return "".join([name, *(tag for tag in tags if tag.startswith("#"))]), float(value)


def otlp() -> int:
    """A receiver of OpenTelemetry's metrics over HTTP; gives its port."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = ExportMetricsServiceRequest.FromString(body)
            found = [
                (
                    metric.name + "".join(f"#{one.key}:{one.value.string_value}" for one in point.attributes),
                    point.as_double if point.HasField("as_double") else point.as_int,
                )
                for resource in request.resource_metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
                for point in metric.gauge.data_points
                if "keepline" in metric.name
            ]
            self.send_response(200)
            self.end_headers()
            take(found)

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, name="receiver", daemon=True).start()
    return server.server_port


def configure(kind: str) -> None:
    options: dict[str, object] = {}
    if kind == "otel":
        port = otlp()
        options = {"otel_on": True, "otel_host": "127.0.0.1", "otel_port": port}
        options["otel_interval_milliseconds"] = 500
        os.environ["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"] = f"http://127.0.0.1:{port}/v1/metrics"
        os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf"
    elif kind != "none":
        on = "statsd_datadog_enabled" if kind == "datadog" else "statsd_on"
        options = {on: True, "statsd_host": "127.0.0.1", "statsd_port": statsd()}
        options["statsd_influxdb_enabled"] = kind == "influxdb"
    for name, value in options.items():
        os.environ[f"AIRFLOW__METRICS__{name.upper()}"] = str(value)


def initialise() -> None:
    """What a scheduler does once its listeners know that it starts (SchedulerJobRunner, ``_execute``)."""
    try:
        from airflow._shared.observability.metrics import stats
        from airflow.observability.metrics import stats_utils
    except ImportError:
        return
    stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)


def reports() -> int:
    return sum(LAST in name for name, _ in received)


def threads() -> int:
    return [one.name for one in threading.enumerate()].count("keepline-metrics")


def in_a_child() -> bool:
    """Whether a forked child, which has no such thread, stops at once."""
    pid = os.fork()
    if pid == 0:
        import keepline.airflow.metrics as metrics

        alone = metrics._reporter is None and not threads()
        os._exit(0 if alone and stop() < 5.0 else 1)
    return os.waitpid(pid, 0)[1] == 0


def stop() -> float:
    began = time.monotonic()
    listener_manager().hook.before_stopping(component=object())
    return time.monotonic() - began


def main() -> None:
    kind, count, seconds, words = argument(1), argument(2, 1), argument(3), argument(4, ["scheduler"])
    configure(kind)
    sys.argv = ["airflow", *words]
    from airflow.jobs.job import Job

    if seconds:
        import keepline.airflow.metrics as ours

        ours._LOOK_SECONDS = seconds
    listener_manager()
    Job()
    initialise()
    Job()  # whatever else is told that it starts
    found: dict[str, Any] = {"threads": threads()}
    found["loaded"] = "keepline.airflow.metrics" in sys.modules
    if found["threads"]:
        if count:
            # On SQLite a worker is there from the beginning, with something to do.
            wait_for(lambda: listener().executor.pending == 0)
            seen = reports()
            wait_for(lambda: reports() >= max(count, seen + 2))  # of two, the second has begun since
        began = time.monotonic()
        found["a child is alone"] = in_a_child()
        found["fork"] = time.monotonic() - began
    listener().submit_callable(os.getpid).exception(30)
    found["stop"] = stop()
    found["threads left"] = threads()
    found["metrics"] = dict(received)
    print(json.dumps(found["metrics"], indent=1))
    give(found)


if __name__ == "__main__":
    run(main)
