from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Iterator

import pytest
from openlineage.client.transport import kafka as client_kafka

from keepline.config import Leg
from keepline.destinations.base import Answer, Try
from keepline.destinations.openlineage import DrivenDestination

BODY = (
    b'{"eventType": "START", "eventTime": "2026-01-01T00:00:00+00:00", "producer": "https://example.com/p", '
    b'"run": {"runId": "01941f29-7c00-7743-8001-7c3f0f9ff4d4"}, "job": {"namespace": "n", "name": "j"}}'
)


@pytest.fixture
def said_by_the_broker(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """What a producer of Kafka's own client tells its callback when it flushes, call by call."""
    said: list[str | None] = []

    class Producer:
        def __init__(self, config: dict[str, str]) -> None:
            pass

        def produce(self, *, on_delivery, **message: object) -> None:
            self.told = on_delivery

        def flush(self, timeout: float = -1) -> int:
            self.told(said.pop(0), "the message")
            return 0

    module = types.ModuleType("confluent_kafka")
    module.Producer = Producer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "confluent_kafka", module)
    monkeypatch.setattr(client_kafka, "on_delivery", client_kafka.on_delivery)
    return said


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.mark.timeout(30)
def test_only_what_the_broker_has_taken_is_delivered(
    loop: asyncio.AbstractEventLoop, said_by_the_broker: list[str | None]
) -> None:
    answers: list[Answer] = []

    def done(event: int, answer: Answer) -> None:
        answers.append(answer)
        loop.stop()

    params = {"config": {"bootstrap.servers": "127.0.0.1:1"}, "topic": "lineage"}
    destination = DrivenDestination(Leg("k", "kafka", 0, params), loop, done)
    try:
        for event, said in enumerate(("_MSG_TIMED_OUT", None)):
            said_by_the_broker.append(said)
            destination.start(Try(event, BODY, 5.0))
            loop.run_forever()
    finally:
        destination.close(5.0)
    failed, taken = answers
    assert not failed.accepted
    assert "_MSG_TIMED_OUT" in failed.error
    assert taken.accepted
