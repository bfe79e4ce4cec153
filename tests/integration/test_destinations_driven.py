"""Delivery through the client's other transports and a user's own, driven in a thread of the lane."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import attr
import pytest
import requests
from openlineage.client.event_v2 import RunEvent
from openlineage.client.serde import Serde
from openlineage.client.transport.http import TokenProvider
from openlineage.client.transport.transform import EventTransformer
from openlineage.client.transport.transport import Config, Transport
from tests.support_relay import (
    ThreadedRelay,
    account,
    all_there,
    append,
    client,
    dead_letters,
    leg,
    names_in,
    run_event,
    status_of,
    until,
)

from keepline.demo.destination import Answer, Fault, RecordingDestination

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

Deliver = Callable[..., ThreadedRelay]

HERE = __name__


@attr.define
class OwnConfig(Config):
    """Takes anything."""

    params: dict[str, Any]

    @classmethod
    def from_dict(cls, params: dict[str, Any]) -> OwnConfig:
        return cls(params)


class OwnTransport(Transport):
    """A user's own transport: does what the test says."""

    kind = "own"
    config_class = OwnConfig
    emitted: ClassVar[list[Any]] = []
    threads: ClassVar[set[str]] = set()
    built: ClassVar[list[OwnTransport]] = []
    closed: ClassVar[list[OwnTransport]] = []
    act: Callable[[Any], Any]

    def __init__(self, config: OwnConfig) -> None:
        self.config = config
        type(self).built.append(self)
        if config.params.get("unbuildable"):
            raise RuntimeError("no such broker, with key s3cr3t-key")

    def emit(self, event: Any) -> Any:
        type(self).threads.add(threading.current_thread().name)
        result = type(self).act(event)
        type(self).emitted.append(event)
        return result

    def close(self, timeout: float = -1) -> bool:
        type(self).closed.append(self)
        return True


@pytest.fixture
def own() -> type[OwnTransport]:
    for each in (OwnTransport.emitted, OwnTransport.built, OwnTransport.closed, OwnTransport.threads):
        each.clear()
    OwnTransport.act = staticmethod(lambda event: None)
    return OwnTransport


OWN = {"type": f"{HERE}.OwnTransport", "token": "s3cr3t-key"}


def jobs(own: type[OwnTransport]) -> list[str]:
    return [event.job.name for event in own.emitted]


def raising(*errors: BaseException | None) -> Callable[[Any], None]:
    """Raises these, one a call, ``None`` for a call that goes well; then all go well."""
    left = list(errors)

    def act(event: Any) -> None:
        error = left.pop(0) if left else None
        if error is not None:
            raise error

    return act


def test_events_go_to_a_file_in_the_order_of_appending(
    outbox: Path, deliver: Deliver, tmp_path: Path
) -> None:
    written = tmp_path / "events.ndjson"
    names = append(outbox, map(str, range(100)))
    assert deliver({"f": {"type": "file", "log_file_path": str(written), "append": True}}).idle()
    lines = written.read_text().splitlines()
    assert [json.loads(line)["job"]["name"] for line in lines] == names
    assert account(outbox, "f") == {"delivered": 100, "dead": 0, "pending": 0}
    assert status_of(outbox, "f").last_answer == "accepted"


def test_a_user_s_transport_is_built_once_driven_in_one_thread_and_closed(
    own: type[OwnTransport], outbox: Path, deliver: Deliver
) -> None:
    names = append(outbox, map(str, range(20)))
    relay = deliver({"mine": {**OWN, "priority": 3}})
    assert relay.idle()
    assert jobs(own) == names
    assert own.threads == {"keepline-mine"}
    (built,) = own.built
    assert (built.name, built.priority) == ("mine", 3)
    relay.stop()
    assert own.closed == [built]


def test_what_a_transport_gets_is_an_event_of_the_client_s(
    own: type[OwnTransport], outbox: Path, deliver: Deliver
) -> None:
    emitted = run_event("one")
    client(outbox, {"mine": OWN}, relay="external").emit(emitted)
    assert deliver({"mine": OWN}).idle()
    (event,) = own.emitted
    assert isinstance(event, RunEvent)
    assert Serde.to_dict(event) == Serde.to_dict(emitted)


@pytest.mark.parametrize("error", [TypeError("no"), ValueError("no"), KeyError("no"), AttributeError("no")])
def test_an_event_that_a_transport_can_t_take_is_a_dead_letter(
    error: Exception, own: type[OwnTransport], outbox: Path, deliver: Deliver
) -> None:
    own.act = staticmethod(raising(None, error))
    append(outbox, ["one", "two", "three"])
    assert deliver({"mine": OWN}).idle()
    assert jobs(own) == ["one", "three"]
    assert account(outbox, "mine") == {"delivered": 2, "dead": 1, "pending": 0}


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("the broker with s3cr3t-key is away"),
        OSError("the broker with s3cr3t-key is away"),
        requests.ConnectionError("the broker with s3cr3t-key is away"),
        requests.exceptions.InvalidURL("s3cr3t-key is no URL"),  # a ValueError, and not about the event
        SystemExit("s3cr3t-key"),
    ],
    ids=repr,
)
def test_a_transport_that_fails_is_out_and_loses_nothing(
    error: BaseException, own: type[OwnTransport], outbox: Path, deliver: Deliver
) -> None:
    own.act = staticmethod(raising(*[error] * 5))
    names = append(outbox, map(str, range(10)), run=lambda _: "one run")
    relay = deliver({"mine": OWN}, backoff_first=0.3, backoff_max=0.3)
    until(lambda: status_of(outbox, "mine").state == "out")
    found = status_of(outbox, "mine")
    assert type(error).__name__ in found.reason
    assert "***" in found.reason
    assert "s3cr3t" not in found.reason
    assert relay.idle()
    assert jobs(own) == names
    assert account(outbox, "mine") == {"delivered": 10, "dead": 0, "pending": 0}


@pytest.mark.parametrize(
    ("code", "state"), [(400, "open"), (401, "paused"), (404, "paused"), (429, "out"), (503, "out")]
)
def test_a_status_that_a_transport_raises_means_what_it_means_everywhere(
    code: int, state: str, own: type[OwnTransport], outbox: Path, deliver: Deliver
) -> None:
    response = requests.Response()
    response.status_code = code
    response._content = b"because of s3cr3t-key"
    own.act = staticmethod(raising(*[requests.HTTPError("no", response=response)] * 3))
    append(outbox, map(str, range(5)))
    relay = deliver({"mine": OWN}, backoff_first=0.3, backoff_max=0.3)
    answer = f"HTTP {code}: because of ***"
    until(lambda: answer in (status_of(outbox, "mine").reason, *dead_letters(outbox)))
    assert status_of(outbox, "mine").state == state
    assert relay.idle()
    dead = 3 if code == 400 else 0
    assert account(outbox, "mine") == {"delivered": 5 - dead, "dead": dead, "pending": 0}


def test_a_transport_that_can_t_be_built_is_built_once_it_can(
    own: type[OwnTransport], outbox: Path, deliver: Deliver
) -> None:
    params: dict[str, Any] = {"unbuildable": True}
    own.config_class = type(
        "Shared", (OwnConfig,), {"from_dict": classmethod(lambda cls, _: OwnConfig(params))}
    )
    try:
        append(outbox, ["one"])
        relay = deliver({"mine": OWN})
        until(lambda: status_of(outbox, "mine").state == "out")
        assert (
            "can't be built: RuntimeError: no such broker, with key ***" in status_of(outbox, "mine").reason
        )
        params.clear()
        assert relay.idle()
        assert jobs(own) == ["one"]
    finally:
        own.config_class = OwnConfig


def test_a_library_that_is_missing_is_told_of_and_keeps_the_events_of_its_lane_alone(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    if find_spec("confluent_kafka") is not None:
        pytest.skip("the library of Kafka is here")
    names = append(outbox, map(str, range(20)))
    kafka = {"type": "kafka", "topic": "lineage", "config": {"bootstrap.servers": "127.0.0.1:1"}}
    deliver({"k": kafka, "a": leg(destination)})
    destination.wait_for(lambda d: len(d.events) == 20, 30)
    assert all_there(destination, names)
    until(lambda: status_of(outbox, "k").state == "out")
    assert "No module named 'confluent_kafka'" in status_of(outbox, "k").reason
    assert account(outbox, "k") == {"delivered": 0, "dead": 0, "pending": 20}


def test_a_transport_that_hangs_holds_up_neither_other_lanes_nor_the_relay_s_end(
    own: type[OwnTransport], destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    go_on = threading.Event()
    own.act = staticmethod(lambda event: go_on.wait(30))
    names = append(outbox, map(str, range(100)))
    hanging = {f"hangs-{number}": OWN for number in range(4)}
    relay = deliver({**hanging, "a": leg(destination)}, stop_timeout=0.3)
    destination.wait_for(lambda d: len(d.events) == 100, 30)
    assert all_there(destination, names)
    began = time.monotonic()
    try:
        relay.stop()
        assert time.monotonic() - began < 0.3 + 1.0
    finally:
        go_on.set()
    assert account(outbox, "hangs-0") == {"delivered": 0, "dead": 0, "pending": 100}


class FetchedToken(TokenProvider):
    """A user's own way to a key, which takes a while."""

    fetched = 0

    def get_bearer(self) -> str:
        type(self).fetched += 1
        return "Bearer fetched"


@pytest.mark.parametrize("kind", ["http", "async_http"])
def test_http_with_a_key_that_is_fetched_is_left_to_the_client_and_delivered_before_it_is_marked(
    kind: str, destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    mine = leg(destination, type=kind, auth={"type": f"{HERE}.FetchedToken"})
    destination.answer(503)
    names = append(outbox, map(str, range(10)), run=lambda _: "one run")
    relay = deliver({"a": mine})
    until(lambda: status_of(outbox, "a").state == "out")
    assert account(outbox) == {"delivered": 0, "dead": 0, "pending": 10}
    destination.answer(201)
    assert relay.idle()
    assert names_in(destination) == names
    assert {one.headers["authorization"] for one in destination.received} == {"Bearer fetched"}


def test_the_client_s_own_retries_are_left_to_the_lane(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(429, headers=[("Retry-After", "1")], times=1)
    append(outbox, ["one"])
    relay = deliver({"a": leg(destination, auth={"type": f"{HERE}.FetchedToken"})}, retry_after_max=0.3)
    assert relay.idle()
    first, second = (one.at for one in destination.received)
    assert 0.3 <= second - first < 1.0


def test_a_redirect_that_the_client_follows_is_not_taken_for_a_delivery(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(302, headers=[("Location", other.url + "/login")])
    other.answer(200)
    append(outbox, ["one"])
    deliver({"a": leg(destination, auth={"type": f"{HERE}.FetchedToken"})})
    until(lambda: status_of(outbox, "a").state == "paused")
    assert len(other.received) > 0
    assert account(outbox) == {"delivered": 0, "dead": 0, "pending": 1}


def test_a_connection_that_is_reset_is_an_outage_for_a_driven_transport_too(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.fault(Fault.RESET_BEFORE_ANSWER, times=3)
    names = append(outbox, map(str, range(5)), run=lambda _: "one run")
    assert deliver({"a": leg(destination, auth={"type": f"{HERE}.FetchedToken"})}).idle()
    assert names_in(destination) == names


def test_a_composite_in_a_leg_delivers_to_each_of_its_own(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    names = append(outbox, map(str, range(10)))
    both = {"type": "composite", "transports": {"x": leg(destination), "y": leg(other, type="async_http")}}
    assert deliver({"both": both}).idle()
    assert names_in(destination) == names
    assert names_in(other) == names


class Renamed(EventTransformer):
    """A user's own change to events."""

    def transform(self, event: Any) -> Any:
        if event.job.name == "dropped":
            return None
        event.job.name = self.properties["prefix"] + event.job.name
        return event


def test_a_transformer_changes_what_is_sent(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    append(outbox, ["one", "dropped", "two"])
    transform = {
        "type": "transform",
        "transport": leg(destination, type="async_http"),
        "transformer_class": f"{HERE}.Renamed",
        "transformer_properties": {"prefix": "my "},
    }
    destination.answer_with(lambda one: Answer(201, delay=0.05))
    assert deliver({"t": transform}).idle()
    assert names_in(destination) == ["my one", "my two"]
    assert account(outbox, "t")["delivered"] == 3
