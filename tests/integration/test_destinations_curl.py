"""libcurl's connections: bounded, kept, made anew, and never in the way of an idle loop."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support_relay import leg

from keepline.config import Settings
from keepline.demo.destination import Fault, RecordingDestination
from keepline.destinations import curl
from keepline.destinations.base import Answer, Try
from keepline.destinations.curl import CurlLoop
from keepline.destinations.http import HttpDestination
from keepline.destinations.legs import parse
from keepline.destinations.native import endpoint_of

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]


class Watched(CurlLoop):
    """Remembers what was watched, and how often libcurl was at work."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, connections: int) -> None:
        super().__init__(loop, connections=connections)
        self.seen: set[int] = set()
        self.turns = 0

    def watch(self, fd: int, purpose: int) -> int:
        self.seen.add(fd)
        return super().watch(fd, purpose)

    def _perform(self) -> None:
        self.turns += 1
        super()._perform()


class Driven:
    """Destinations on a loop that runs only while a test waits.

    Args:
        connections: most that are open.
    """

    def __init__(self, connections: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.curl = Watched(self.loop, connections=connections)
        self.answers: dict[int, Answer] = {}
        self._started = 0
        self._opened: list[HttpDestination] = []

    def to(self, server: RecordingDestination) -> HttpDestination:
        """A destination that posts there."""
        settings = Settings.from_dict({"transports": {"a": leg(server)}})
        endpoint = endpoint_of(parse(settings.legs[0]))
        assert endpoint is not None
        self._opened.append(HttpDestination(endpoint, self.curl, self._done, capacity=64))
        return self._opened[-1]

    def _done(self, event: int, answer: Answer) -> None:
        assert event not in self.answers
        self.answers[event] = answer

    def start(self, destination: HttpDestination, count: int, body: bytes = b"{}") -> list[int]:
        """Start tries; gives their events."""
        first = self._started + 1
        self._started += count
        events = list(range(first, first + count))
        for event in events:
            destination.start(Try(event=event, body=body, deadline=5.0))
        return events

    def post(self, destination: HttpDestination, count: int, body: bytes = b"{}") -> list[Answer]:
        """Start tries and wait for their answers."""
        events = self.start(destination, count, body)
        assert not any(event in self.answers for event in events)
        self.run(lambda: all(event in self.answers for event in events))
        return [self.answers[event] for event in events]

    def run(self, until: Callable[[], bool]) -> None:
        """Let the loop run."""

        async def wait() -> None:
            while not until():
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(asyncio.wait_for(wait(), 20))

    def close(self) -> None:
        for destination in self._opened:
            destination.close(0)
        self.curl.close()
        self.loop.close()


@pytest.fixture
def driven() -> Iterator[Callable[[int], Driven]]:
    """Makes them, given how many connections they may open; closes them at the end."""
    made: list[Driven] = []

    def make(connections: int) -> Driven:
        made.append(Driven(connections))
        return made[-1]

    yield make
    for one in made:
        one.close()


def sockets(one: Driven) -> set[int]:
    """Those that were watched and are open."""
    return {fd for fd in one.curl.seen if Path(f"/proc/self/fd/{fd}").is_socket()}


def is_quiet(one: Driven) -> bool:
    """Whether nothing is there that would wake the loop."""
    ready, _, _ = select.select([one.curl._epoll.fileno()], [], [], 0)
    return not ready


def test_connections_are_kept_however_many_requests_there_are_at_once(
    destination: RecordingDestination, driven: Callable[[int], Driven]
) -> None:
    one = driven(64)
    there = one.to(destination)
    destination.answer(201, delay=0.05)
    for count in (64, 1, 1, 7, 64, 2, 64):
        assert one.post(there, count) == [Answer(status=201)] * count
    assert destination.in_flight_peak == 64
    assert destination.connections_total == 64


def test_the_bound_of_connections_holds_over_all_hosts(
    destination: RecordingDestination, other: RecordingDestination, driven: Callable[[int], Driven]
) -> None:
    one = driven(3)
    here, there = one.to(destination), one.to(other)
    for _ in range(5):
        one.post(here, 3)
        one.post(there, 2)
        one.start(here, 4)
        one.post(there, 4)
    one.run(lambda: len(one.answers) == 5 * 13)
    assert {answer.status for answer in one.answers.values()} == {201}
    assert destination.connections_peak + other.connections_peak <= 6
    destination.wait_for(lambda d: d.connections_open + other.connections_open <= 3, 20)


def test_more_tries_than_connections_wait_in_line(
    destination: RecordingDestination, driven: Callable[[int], Driven]
) -> None:
    one = driven(2)
    destination.answer(201, delay=0.01)
    assert one.post(one.to(destination), 20) == [Answer(status=201)] * 20
    assert destination.in_flight_peak == 2
    assert destination.connections_total == 2


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("noticed", [True, False])
def test_kept_connections_that_the_server_has_closed_cost_no_answer(
    noticed: bool, count: int, destination: RecordingDestination, driven: Callable[[int], Driven]
) -> None:
    one = driven(8)
    there = one.to(destination)
    destination.answer(201, delay=0.05)
    one.post(there, 8)
    assert len(sockets(one)) == 8
    turns = one.curl.turns
    destination.down()
    destination.up()
    if noticed:
        one.run(lambda: one.curl.turns > turns and is_quiet(one))
    assert one.post(there, count) == [Answer(status=201)] * count
    assert len(destination.received) == 8 + count
    assert destination.connections_total == 8 + count


@pytest.mark.parametrize("fault", [Fault.CLOSE_BEFORE_ANSWER, Fault.RESET_BEFORE_ANSWER])
def test_a_kept_connection_that_ends_under_a_request_never_counts_as_an_answer(
    fault: Fault, destination: RecordingDestination, driven: Callable[[int], Driven]
) -> None:
    one = driven(1)
    there = one.to(destination)
    one.post(there, 1)
    destination.fault(fault, times=1)
    (answer,) = one.post(there, 1)
    # libcurl tries again by itself, over a new connection, when a kept one brought nothing back.
    assert (answer.status, len(destination.received)) in [(201, 3), (None, 2)]
    assert [request.status for request in destination.received][:2] == [201, None]


def test_nothing_is_left_to_wake_an_idle_loop(
    destination: RecordingDestination, driven: Callable[[int], Driven]
) -> None:
    one = driven(4)
    there = one.to(destination)
    one.post(there, 4)
    assert one.curl._timer is None
    assert is_quiet(one)
    turns = one.curl.turns
    destination.down()
    one.run(lambda: one.curl.turns > turns and is_quiet(one))
    assert one.curl.turns <= turns + 4


def test_a_closed_connection_that_a_forked_process_holds_does_not_keep_the_loop_awake(
    destination: RecordingDestination, driven: Callable[[int], Driven]
) -> None:
    one = driven(2)
    there = one.to(destination)
    destination.answer(201, headers=[("Connection", "close")], delay=0.05)
    events = one.start(there, 2)
    one.run(lambda: destination.in_flight == 2)
    # As a fork would: the socket stays open when libcurl has closed its own descriptor of it.
    fds = sockets(one)
    held = [os.dup(fd) for fd in fds]
    try:
        one.run(lambda: all(event in one.answers for event in events))
        destination.down()
        destination.up()
        one.run(lambda: is_quiet(one))
        assert one.post(there, 2) == [Answer(status=201)] * 2
    finally:
        for fd in held:
            os.close(fd)


def test_a_large_body_is_let_go_of_with_its_answer(
    destination: RecordingDestination, driven: Callable[[int], Driven]
) -> None:
    one = driven(1)
    body = b'{"a": "%s"}' % (b"x" * 1_000_000)
    before = sys.getrefcount(body)
    one.post(one.to(destination), 1, body)
    assert sys.getrefcount(body) == before


def test_what_is_under_way_at_a_close_is_never_answered(
    destination: RecordingDestination, driven: Callable[[int], Driven]
) -> None:
    one = driven(8)
    there = one.to(destination)
    destination.answer(201, delay=0.05)
    one.start(there, 8)
    one.run(lambda: destination.in_flight == 8)
    there.close(0)
    one.curl.close()
    one.curl.close()
    assert one.answers == {}
    destination.wait_for(lambda d: d.connections_open == 0, 20)


def test_connections_that_nobody_wants_any_more_are_closed_and_opened_again_when_they_are(
    driven: Callable[[int], Driven], destination: RecordingDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curl, "_KEEP_SECONDS", 0.2)
    one = driven(8)
    to = one.to(destination)
    for turn in (1, 2):
        assert [answer.status for answer in one.post(to, 20)] == [201] * 20
        assert 1 <= destination.connections_open <= 8
        one.run(lambda: destination.connections_open == 0)
        assert is_quiet(one)
        assert not sockets(one)
        assert len(destination.received) == turn * 20


def test_connections_that_are_wanted_again_and_again_are_kept(
    driven: Callable[[int], Driven], destination: RecordingDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curl, "_KEEP_SECONDS", 0.2)
    one = driven(8)
    to = one.to(destination)
    began = one.loop.time()
    while one.loop.time() < began + 0.6:
        one.post(to, 1)
    assert destination.connections_total == 1
