"""What the relay makes of each answer over HTTP: delivered, dead, paused; from a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support_relay import (
    ThreadedRelay,
    account,
    all_once,
    append,
    dead_letters,
    leg,
    names_in,
    status,
    status_of,
    until,
)

from keepline.demo.destination import Answer, Received, RecordingDestination

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

Deliver = Callable[..., ThreadedRelay]


def name_of(request: Received) -> str:
    return str(json.loads(request.body)["job"]["name"])


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
def test_a_2xx_is_delivered(
    code: int, destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(code)
    events = append(outbox, ["one", "two"])
    assert deliver({"a": leg(destination)}).idle()
    assert all_once(destination, events)
    assert account(outbox) == {"delivered": 2, "dead": 0, "pending": 0}
    assert status_of(outbox, "a").last_answer == f"HTTP {code}"


@pytest.mark.parametrize("code", [400, 406, 409, 410, 413, 415, 418, 422, 499])
def test_a_refused_event_is_a_dead_letter_with_status_and_excerpt_and_its_run_goes_on(
    code: int, destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    body = b'{"error": "no such\n field"}'
    destination.answer_with(lambda one: Answer(code, body=body) if name_of(one) == "refused" else Answer(201))
    append(outbox, ["before", "refused", "after"], run=lambda _: "one run")
    assert deliver({"a": leg(destination)}).idle()
    assert names_in(destination) == ["before", "after"]
    assert [name_of(one) for one in destination.received] == ["before", "refused", "after"]
    assert account(outbox) == {"delivered": 2, "dead": 1, "pending": 0}
    assert dead_letters(outbox) == [f'HTTP {code}: {{"error": "no such field"}}']


@pytest.mark.parametrize("code", [401, 403, 404, 405, 407, 301, 302, 303, 307, 308])
def test_a_misconfigured_destination_pauses_its_lane_loses_nothing_and_heals_by_itself(
    code: int,
    destination: RecordingDestination,
    outbox: Path,
    deliver: Deliver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    destination.answer(code, body=b"log in first")
    events = append(outbox, map(str, range(20)))
    relay = deliver({"a": leg(destination)})
    until(lambda: status_of(outbox, "a").state == "paused")
    assert account(outbox) == {"delivered": 0, "dead": 0, "pending": 20}
    assert status_of(outbox, "a").reason == f"HTTP {code}: log in first"
    assert "destination `a` is misconfigured" in caplog.text
    destination.answer(201)
    assert relay.idle()
    assert all_once(destination, events)
    assert account(outbox) == {"delivered": 20, "dead": 0, "pending": 0}
    assert (status_of(outbox, "a").state, status_of(outbox, "a").reason) == ("open", "")
    assert caplog.text.count("destination `a` is misconfigured") == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_page_that_answers_200_is_not_followed_and_not_counted_as_delivered(
    code: int, destination: RecordingDestination, other: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(code, headers=[("Location", other.url + "/login")])
    other.answer(200)
    append(outbox, ["one"])
    deliver({"a": leg(destination)})
    destination.wait_for(lambda d: len(d.received) >= 3, 30)
    assert other.connections_total == 0
    assert account(outbox) == {"delivered": 0, "dead": 0, "pending": 1}
    assert status_of(outbox, "a").state == "paused"


def test_a_paused_lane_sends_one_probe_at_a_time(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(401)
    append(outbox, map(str, range(50)))
    deliver({"a": leg(destination)}, max_connections=8)
    until(lambda: status_of(outbox, "a").state == "paused")
    destination.wait_for(lambda d: d.in_flight == 0, 30)
    destination.clear()
    destination.answer(401, delay=0.02)
    destination.wait_for(lambda d: len(d.received) >= 10, 30)
    assert destination.in_flight_peak == 1


def test_a_flood_of_refusals_does_not_flood_the_log(
    destination: RecordingDestination, outbox: Path, deliver: Deliver, caplog: pytest.LogCaptureFixture
) -> None:
    destination.answer(422)
    append(outbox, map(str, range(300)))
    assert deliver({"a": leg(destination)}).idle()
    assert account(outbox) == {"delivered": 0, "dead": 300, "pending": 0}
    assert caplog.text.count("refused an event for good: HTTP 422") == 1


def test_the_excerpt_of_an_answer_is_short_printable_and_on_one_line(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(400, body=b"\x1b[31mred\x1b[0m\r\n\tforged\x00line \xff " + b"long " * 100_000)
    append(outbox, ["one"])
    assert deliver({"a": leg(destination)}).idle()
    (answer,) = dead_letters(outbox)
    assert answer.startswith("HTTP 400: ?[31mred?[0m forged?line \ufffd long long")
    assert answer.isprintable()
    assert len(answer) <= 600


def test_a_key_in_an_answer_is_not_shown(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(
        400, body=b"your key s3cr3t-key is not known, nor is hunter22 nor t%6Fken77 or token77"
    )
    address = destination.url.replace("://", "://me-myself:hunter22@") + "/?token=t%6Fken77"
    append(outbox, ["one"])
    auth = {"type": "api_key", "apiKey": "s3cr3t-key"}
    assert deliver({"a": leg(address, auth=auth)}).idle()
    assert dead_letters(outbox) == ["HTTP 400: your key *** is not known, nor is *** nor *** or ***"]
    assert "s3cr3t" not in str(status(outbox))


def test_a_refusal_whose_answer_breaks_off_is_a_refusal_all_the_same(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    # As of a server that finds the body too large: it says so, and hangs up.
    destination.answer(413, headers=[("Content-Length", "1000"), ("Connection", "close")], body=b"too large")
    append(outbox, ["one"])
    deliver({"a": leg(destination, timeout=0.3)})
    until(lambda: account(outbox)["dead"] == 1)
    assert dead_letters(outbox) == ["HTTP 413: too large"]
