"""Delivery through the client's other transports and a user's own, driven in a thread of the lane."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from email.message import Message
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import HTTPError

import attr
import pytest
import requests
from openlineage.client.event_v2 import RunEvent
from openlineage.client.serde import Serde
from openlineage.client.transport.http import TokenProvider
from openlineage.client.transport.transform import EventTransformer
from openlineage.client.transport.transport import Config, Transport
from tests.support_relay import (
    SOON,
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
from keepline.event import Event
from keepline.outbox.files import OutboxFiles
from keepline.outbox.journal import Producer

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

    @property
    def timeout(self) -> float | None:
        return self.params.get("timeout")


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


def test_what_is_no_event_is_a_dead_letter(own: type[OwnTransport], outbox: Path, deliver: Deliver) -> None:
    append(outbox, ["one"])
    producer = Producer(OutboxFiles(outbox), segment_bytes=1 << 24, lock_timeout=5.0)
    producer.append(Event(b'["no event"]', "", "", "", ""))
    producer.close()
    append(outbox, ["three"])
    assert deliver({"mine": OWN}).idle()
    assert jobs(own) == ["one", "three"]
    assert account(outbox, "mine") == {"delivered": 2, "dead": 1, "pending": 0}
    assert "it is a list" in dead_letters(outbox)[0]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("the broker with s3cr3t-key is away"),
        OSError("the broker with s3cr3t-key is away"),
        requests.ConnectionError("the broker with s3cr3t-key is away"),
        requests.exceptions.InvalidURL("s3cr3t-key is no URL"),  # a ValueError, and not about the event
        SystemExit("s3cr3t-key"),
        # A wrong setting or a mistake in the transport would otherwise bury every event.
        TypeError("s3cr3t-key"),
        ValueError("s3cr3t-key"),
        KeyError("s3cr3t-key"),
        AttributeError("s3cr3t-key"),
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


def test_a_status_that_another_library_raises_means_the_same(
    own: type[OwnTransport], outbox: Path, deliver: Deliver
) -> None:
    headers = Message()
    headers["Retry-After"] = "1"
    errors = [HTTPError("http://127.0.0.1", code, "no", headers, None) for code in (503, 422)]
    own.act = staticmethod(raising(*errors))
    append(outbox, map(str, range(5)), run=lambda _: "one run")
    relay = deliver({"mine": OWN}, retry_after_max=0.3)
    until(lambda: status_of(outbox, "mine").state == "out")
    assert status_of(outbox, "mine").reason.startswith("HTTP 503: the transport failed: HTTPError")
    assert relay.idle()
    assert jobs(own) == ["1", "2", "3", "4"]
    assert dead_letters(outbox)[0].startswith("HTTP 422")


def test_a_key_that_can_t_be_fetched_is_not_the_event_s_fault(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    auth = {"type": "jwt", "apiKey": "s3cr3t-key", "tokenEndpoint": other.url + "/token"}
    other.answer(400, body=b"no such key")
    append(outbox, ["one", "two"])
    relay = deliver({"a": leg(destination, auth=auth)})
    until(lambda: status_of(outbox, "a").state == "out")
    assert "400 Client Error" in status_of(outbox, "a").reason
    other.answer(401)
    until(lambda: status_of(outbox, "a").state == "paused")
    other.answer(200, body=b'{"access_token": "t"}')
    assert relay.idle()
    assert account(outbox) == {"delivered": 2, "dead": 0, "pending": 0}


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


class Hanging:
    """What some calls of a transport do: not come back before they are told to."""

    def __init__(self, calls: int) -> None:
        self._left = calls
        self._go_on = threading.Event()
        self.came_back = 0

    def __call__(self, event: Any) -> None:
        if self._left > 0:
            self._left -= 1
            self._go_on.wait(SOON)
            self.came_back += 1

    def let_go(self) -> None:
        self._go_on.set()


@pytest.fixture
def hanging(own: type[OwnTransport]) -> Iterator[Callable[[int], Hanging]]:
    made: list[Hanging] = []

    def make(calls: int) -> Hanging:
        made.append(Hanging(calls))
        own.act = staticmethod(made[-1])
        return made[-1]

    yield make
    for each in made:
        each.let_go()


def threads_of(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"keepline-{name}"]


HANGING = {**OWN, "timeout": 0.1}


def test_a_try_that_hangs_is_given_up_and_made_again_with_another_transport(
    own: type[OwnTransport], hanging: Callable[[int], Hanging], outbox: Path, deliver: Deliver
) -> None:
    hung = hanging(1)
    names = append(outbox, map(str, range(5)), run=lambda _: "one run")
    relay = deliver({"mine": HANGING}, backoff_first=0.3, backoff_max=0.3)
    until(lambda: status_of(outbox, "mine").state == "out")
    assert "hasn't come back in 0.2 s" in status_of(outbox, "mine").reason
    assert relay.idle()
    assert jobs(own) == names
    assert len(own.built) == 2
    # What it comes to in the end is nobody's answer: nothing is counted twice, and its transport is closed.
    hung.let_go()
    until(lambda: len(threads_of("mine")) == 1)
    assert own.closed == own.built[:1]
    assert sorted(jobs(own)) == sorted([*names, names[0]])
    assert relay.idle()
    assert account(outbox, "mine") == {"delivered": 5, "dead": 0, "pending": 0}


def test_a_transport_that_always_hangs_takes_a_bounded_number_of_threads_until_they_come_back(
    own: type[OwnTransport], hanging: Callable[[int], Hanging], outbox: Path, deliver: Deliver
) -> None:
    hung = hanging(1000)
    names = append(outbox, map(str, range(5)), run=lambda _: "one run")
    deliver({"mine": {**HANGING, "timeout": 0.01}})
    until(lambda: "the transport hangs: 4 of its threads" in status_of(outbox, "mine").last_answer)
    assert len(threads_of("mine")) == 4
    tried = len(own.built)
    asked = status_of(outbox, "mine").last_answer_at
    until(lambda: status_of(outbox, "mine").last_answer_at != asked)
    assert (len(own.built), len(threads_of("mine"))) == (tried, 4)
    hung._left = 0
    hung.let_go()
    until(lambda: account(outbox, "mine")["delivered"] == len(names))
    assert len(threads_of("mine")) == 1


def test_a_transport_whose_building_hangs_is_given_up_too(
    own: type[OwnTransport], outbox: Path, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    build = own.__init__
    calls = iter([True])

    def built(self: OwnTransport, config: OwnConfig) -> None:
        if next(calls, False):
            go_on.wait(SOON)
        build(self, config)

    monkeypatch.setattr(own, "__init__", built)
    append(outbox, ["one"])
    try:
        assert deliver({"mine": HANGING}).idle()
        assert jobs(own) == ["one"]
    finally:
        go_on.set()


class FetchedToken(TokenProvider):
    """A user's own way to a key, which takes a while."""

    fetched = 0

    def get_bearer(self) -> str:
        type(self).fetched += 1
        return "Bearer fetched"


class AskedToken(TokenProvider):
    """A user's own way to a key, which asks the address in its settings."""

    def __init__(self, config: dict[str, str]) -> None:
        self.address = config["address"]

    def get_bearer(self) -> str:
        response = requests.post(self.address, timeout=5)
        response.raise_for_status()
        return "Bearer asked"


def test_what_another_host_refuses_is_not_the_event(
    destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    other.answer(400)
    append(outbox, ["one"])
    mine = leg(destination, auth={"type": f"{HERE}.AskedToken", "address": other.url})
    relay = deliver({"a": mine})
    until(lambda: status_of(outbox, "a").state == "out")
    other.answer(200)
    destination.answer(400)
    assert relay.idle()
    assert account(outbox) == {"delivered": 0, "dead": 1, "pending": 0}


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


@pytest.mark.parametrize("page", [200, 400])
def test_a_redirect_that_the_client_follows_is_no_answer_to_the_event(
    page: int, destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(302, headers=[("Location", other.url + "/login")])
    other.answer(page)
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
