"""What a scheduler tells Airflow's metrics, as they arrive at statsd and at OpenTelemetry."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.airflow_support import KEEPLINE, Airflow, airflow, end_scheduler
from tests.integration.test_cli_check import nobody_reads
from tests.support_relay import append, leg, status_of, until

from keepline.demo.destination import RecordingDestination
from keepline.outbox.files import OutboxFiles

__all__ = ["airflow"]

Deliver = Callable[..., Any]


@pytest.fixture
def used(
    outbox: Path, destination: RecordingDestination, other: RecordingDestination, deliver: Deliver
) -> Path:
    """An outbox with a delivered event and a dead letter, at one of two destinations, and no relay."""
    destination.answer(422, times=1)
    other.answer(401)
    relay = deliver({"trove": leg(destination), "a b.c": leg(other)}, max_connections=2)
    append(outbox, ["one", "two"])
    until(lambda: (status_of(outbox, "trove").delivered, status_of(outbox, "trove").dead) == (1, 1))
    until(lambda: status_of(outbox, "a b.c").state == "paused")
    relay.stop()
    append(outbox, ["three"])
    return outbox


def configure(airflow: Airflow, outbox: Path, **more: str) -> None:
    legs = {"trove": {"type": "http", "url": "http://127.0.0.1:1"}}
    airflow.transport({"type": KEEPLINE, "outbox": str(outbox), "transports": legs, "relay": "external"})
    airflow.env["AIRFLOW__KEEPLINE__METRICS_INTERVAL"] = "1"
    airflow.env.update(more)


def of_destinations(metrics: dict[str, float]) -> dict[str, float]:
    """Those that are the same each time."""
    return {
        name: value for name, value in metrics.items() if ".destination." in name and "oldest_age" not in name
    }


PLAIN = {
    "airflow.keepline.destination.state.trove": 0,
    "airflow.keepline.destination.pending.trove": 0,
    "airflow.keepline.destination.delivered.trove": 1,
    "airflow.keepline.destination.dead.trove": 1,
    "airflow.keepline.destination.state.a_b_c": 2,
    "airflow.keepline.destination.pending.a_b_c": 2,
    "airflow.keepline.destination.delivered.a_b_c": 0,
    "airflow.keepline.destination.dead.a_b_c": 0,
}


def tagged(form: str) -> dict[str, float]:
    """The same, with the destination as a tag."""
    found = {}
    for name, value in PLAIN.items():
        stem, _, destination = name.rpartition(".")
        found[stem + form.format({"a_b_c": "a_b.c"}.get(destination, destination))] = value
    return found


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("statsd", PLAIN),
        ("influxdb", tagged(",destination={}")),
        ("datadog", tagged("#destination:{}")),
        ("otel", tagged("#destination:{}")),
    ],
)
def test_a_scheduler_tells_what_the_outbox_holds(
    kind: str, expected: dict[str, float], airflow: Airflow, used: Path
) -> None:
    if kind == "otel" and airflow.is_2:
        expected = PLAIN  # there, a gauge of Airflow's has one value, whatever its tags
    configure(airflow, used)
    found = airflow.script("metrics", kind, 1, 45).result  # time enough for a look on a busy machine
    metrics: dict[str, float] = found["metrics"]
    assert of_destinations(metrics) == expected
    values = {
        "outbox.readable": 1,
        "outbox.pending": 2 + 2 * 1,
        "outbox.waiting": 1,
        "outbox.dead": 1,
        "outbox.delivered": 1,
        "outbox.refused": 0,
        "outbox.damaged": 0,
        "relay.alive": 0,
        "pool.waiting": 0,
        "pool.set_aside": 0,
        "pool.workers": 1,
        "pool.refused": 0,
    }
    assert {name: metrics[f"airflow.keepline.{name}"] for name in values} == values
    assert metrics["airflow.keepline.outbox.bytes"] > 0
    assert 0 < metrics["airflow.keepline.outbox.oldest_age"] < 300
    assert metrics["airflow.keepline.outbox.free_bytes"] > 0
    assert found["threads"] == 1
    assert found["a child is alone"]
    assert found["threads left"] == 0
    assert found["stop"] < 10.0


def test_nothing_is_started_where_metrics_go_nowhere_or_nobody_wants_them(
    airflow: Airflow, outbox: Path
) -> None:
    configure(airflow, outbox)
    interval = "AIRFLOW__KEEPLINE__METRICS_INTERVAL"
    found = airflow.variants(
        "metrics",
        {
            "metrics go nowhere": (["none"], {}),
            "the interval is 0": (["statsd"], {interval: "0"}),
            "another transport": (["statsd"], {"AIRFLOW__OPENLINEAGE__TRANSPORT": '{"type": "console"}'}),
            "no scheduler": (["statsd", 1, None, ["triggerer"]], {}),
            "the interval is none": (["statsd", 0], {interval: "often"}),
        },
    )
    assert {name: (one.result["threads"], one.result["metrics"]) for name, one in found.items()} == {
        "metrics go nowhere": (0, {}),
        "the interval is 0": (0, {}),
        "another transport": (0, {}),
        "no scheduler": (0, {}),
        "the interval is none": (1, {}),
    }
    assert [name for name, one in found.items() if not one.result["loaded"]] == [
        "metrics go nowhere",
        "no scheduler",
    ]
    assert all(one.result["threads left"] == 0 for one in found.values())
    (line,) = found["the interval is none"].lines("metrics_interval` is")
    assert "`[keepline] metrics_interval` is 'often', not a number of seconds" in line


def test_an_outbox_that_can_t_be_read_is_told_once_and_seen_again_when_it_can(
    airflow: Airflow, used: Path
) -> None:
    configure(airflow, used)
    ledger = OutboxFiles(used).ledger
    ledger.write_bytes(b"nothing of the kind" * 100)
    found = airflow.script("metrics", "statsd", 3)
    assert found.result["metrics"] == {
        "airflow.keepline.outbox.readable": 0,
        "airflow.keepline.pool.workers": 1,
        "airflow.keepline.pool.refused": 0,
    }
    (line,) = found.lines("keepline's metrics lack the outbox")
    assert "warning" in line.lower()
    assert f"can't read the ledger {ledger}" in line
    assert "); this has no impact on task status" in line
    assert not found.lines("Traceback")


def test_a_disk_that_does_not_answer_holds_up_neither_a_fork_nor_the_end(
    airflow: Airflow, used: Path
) -> None:
    # An open(2) that waits for ever, as on a mount whose server is gone.
    refused = OutboxFiles(used).refused
    refused.unlink(missing_ok=True)
    os.mkfifo(refused)
    configure(airflow, used)
    found = airflow.script("metrics", "statsd", 2, 0.5)
    assert found.result["metrics"]["airflow.keepline.outbox.readable"] == 0
    assert len(found.lines("gives no answer within 0.5 s")) == 1
    assert found.result["fork"] < 5.0
    assert found.result["stop"] < 5.0
    until(lambda: nobody_reads(refused))  # nor is a process left that waits


def test_a_real_scheduler_sends_them_until_it_is_told_to_stop(airflow: Airflow, used: Path) -> None:
    configure(airflow, used)
    airflow.own_database()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(100)
        airflow.env |= {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(receiver.getsockname()[1]),
        }
        with airflow.background("airflow", "scheduler") as scheduler:
            wanted = {
                f"airflow.keepline.{name}"
                for name in ["destination.dead.trove", "pool.workers", "relay.alive", "outbox.readable"]
            }
            while wanted:
                wanted.discard(receiver.recv(65536).decode().partition(":")[0])
            assert end_scheduler(scheduler) == 0
