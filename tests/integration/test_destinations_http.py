"""What goes over the wire for http, async_http and datadog: as the client sends it, over few connections."""

from __future__ import annotations

import importlib.metadata
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openlineage.client import OpenLineageClient
from openlineage.client.transport.datadog import SITE_MAPPING
from tests.support_relay import (
    Settings,
    ThreadedRelay,
    account,
    all_once,
    append,
    leg,
    names_in,
    run_event,
    settled,
    status_of,
    transport,
    until,
)

from keepline.demo.destination import Answer, Received, RecordingDestination
from keepline.destinations.legs import parse
from keepline.destinations.native import endpoint_of

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

Deliver = Callable[..., ThreadedRelay]

KEY = "s3cr3t-key-of-nobody"
VARYING = {"content-length", "accept-encoding", "accept", "connection", "user-agent"}
"""Headers that say who asks and how, and nothing of the event."""
CLIENT = tuple(map(int, importlib.metadata.version("openlineage-python").split(".")[:2]))


def one_request(destination: RecordingDestination) -> Received:
    (request,) = destination.received
    return request


def meant(request: Received) -> tuple[str, str, dict[str, str], Any]:
    """What a request says, leaving out how it was sent."""
    headers = {name: value for name, value in request.headers.items() if name not in VARYING}
    return request.method, request.path, headers, json.loads(request.body)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"type": "async_http"},
        {"endpoint": "other/place?version=1"},
        {"endpoint": "/rooted"},
        {"auth": {"type": "api_key", "apiKey": KEY}},
        {"auth": {"type": "api_key", "apiKey": KEY}, "custom_headers": {"authorization": "Other x"}},
        {"custom_headers": {"X-Mine": "yes", "content-type": "application/x-other"}},
        {"custom_headers": {"X-Latin": "\u00e9t\u00e9"}},
        {"compression": "gzip"},
        {"compression": "gzip", "type": "async_http", "auth": {"type": "api_key", "api_key": KEY}},
    ],
    ids=str,
)
def test_a_request_says_what_the_client_s_own_would(
    more: dict[str, Any],
    destination: RecordingDestination,
    other: RecordingDestination,
    outbox: Path,
    deliver: Deliver,
) -> None:
    event = run_event("one")
    theirs = OpenLineageClient(config={"transport": leg(other, **more)})
    theirs.emit(event)
    assert theirs.close(10)
    ours = OpenLineageClient(
        config={"transport": transport(outbox, {"a": leg(destination, **more)}, relay="external")}
    )
    ours.emit(event)
    assert deliver({"a": leg(destination, **more)}).idle()
    expected = meant(one_request(other))
    expected[2]["host"] = destination.url.partition("//")[2]
    assert meant(one_request(destination)) == expected


def test_a_compressed_body_is_gzip(destination: RecordingDestination, outbox: Path, deliver: Deliver) -> None:
    append(outbox, ["one"], size=100_000)
    assert deliver({"a": leg(destination, compression="gzip")}).idle()
    request = one_request(destination)
    assert request.headers["content-encoding"] == "gzip"
    assert int(request.headers["content-length"]) < 5_000 < len(request.body)


def test_a_header_without_a_value_is_sent_and_none_can_add_another(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    append(outbox, ["one"])
    headers = {"X-Empty": "", "X-Forged": "a\r\nX-Other: b"}
    assert deliver({"a": leg(destination, custom_headers=headers)}).idle()
    got = one_request(destination).headers
    assert got["x-empty"] == ""
    assert got["x-forged"] == "a  X-Other: b"
    assert "x-other" not in got
    assert "expect" not in got


def test_an_address_beyond_ascii_is_encoded_as_the_client_does(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    append(outbox, ["one"])
    assert deliver({"a": leg(destination, endpoint="l\u00edneas y m\u00e1s")}).idle()
    assert one_request(destination).path == "/l%C3%ADneas%20y%20m%C3%A1s"


@pytest.mark.parametrize("megabytes", [1, 20])
def test_a_large_event_is_delivered(
    megabytes: int, destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    append(outbox, ["one"], size=megabytes << 20)
    assert deliver({"a": leg(destination)}).idle()
    assert len(one_request(destination).body) > megabytes << 20


# Datadog


@pytest.mark.parametrize("site", sorted(SITE_MAPPING))
def test_datadog_sites_lead_where_the_client_sends_them(site: str) -> None:
    settings = Settings.from_dict({"transports": {"d": {"type": "datadog", "site": site, "apiKey": KEY}}})
    endpoint = endpoint_of(parse(settings.legs[0]))
    assert endpoint is not None
    assert endpoint.url == SITE_MAPPING[site] + "/api/v1/lineage"
    assert endpoint.headers["Authorization"] == f"Bearer {KEY}"
    assert (endpoint.gzip, endpoint.timeout, endpoint.verify) == (True, 5.0, True)
    assert KEY not in repr(endpoint)


@pytest.mark.parametrize("place", ["apiKey", "apikey", "environment"])
def test_datadog_gets_its_key_from_the_leg_or_the_environment(
    place: str,
    destination: RecordingDestination,
    outbox: Path,
    deliver: Deliver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    datadog = {"type": "datadog", "site": destination.url, "async_transport_rules": {"*": {"*": True}}}
    if place == "environment":
        monkeypatch.setenv("DD_API_KEY", KEY)
    else:
        datadog[place] = KEY
    append(outbox, ["one"])
    destination.answer(400, body=f"{KEY}?".encode(), times=1)
    assert deliver({"d": datadog}).idle()
    request = one_request(destination)
    assert request.path == "/api/v1/lineage"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-encoding"] == "gzip"
    assert request.headers["content-type"] == "application/json"
    assert status_of(outbox, "d").last_answer == "HTTP 400: ***?"


# TLS and proxies


def test_a_certificate_authority_of_one_s_own_is_trusted(
    secure: RecordingDestination, certificate: Path, outbox: Path, deliver: Deliver
) -> None:
    if CLIENT < (1, 54):
        pytest.skip("this client has no ssl_context")
    names = append(outbox, map(str, range(50)))
    a = leg(secure, ssl_context={"ca_cert_path": str(certificate)})
    assert deliver({"a": a}, max_connections=4).idle()
    assert all_once(secure, names)
    assert secure.connections_total <= 4


@pytest.mark.parametrize("megabytes", [1, 20])
def test_a_large_event_is_delivered_over_tls(
    megabytes: int, secure: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    append(outbox, ["one"], size=megabytes << 20)
    assert deliver({"a": leg(secure, verify=False)}).idle()
    assert len(one_request(secure).body) > megabytes << 20


@pytest.mark.parametrize("kilobytes", [24, 48, 64, 96, 200])
def test_events_about_as_large_as_a_buffer_are_delivered_at_once(
    kilobytes: int, destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    names = append(outbox, map(str, range(40)), size=kilobytes << 10)
    assert deliver({"a": leg(destination)}).idle()
    # None had to be tried again after a time-out.
    assert all_once(destination, names)
    assert len(destination.received) == len(names)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_authorities_that_requests_would_trust_are_trusted(
    variable: str,
    secure: RecordingDestination,
    certificate: Path,
    outbox: Path,
    deliver: Deliver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, str(certificate))
    append(outbox, ["one"])
    assert deliver({"a": leg(secure)}).idle()
    assert names_in(secure) == ["one"]


def test_a_certificate_is_not_looked_at_where_it_is_not_to_be(
    secure: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    append(outbox, ["one"])
    assert deliver({"a": leg(secure, verify=False)}).idle()
    assert names_in(secure) == ["one"]


def test_an_authority_that_is_named_counts_also_where_nothing_is_to_be_looked_at(
    secure: RecordingDestination, outbox: Path, deliver: Deliver, tmp_path: Path
) -> None:
    if CLIENT < (1, 54):
        pytest.skip("this client has no ssl_context")
    append(outbox, ["one"])
    nobody = tmp_path / "nobody.pem"
    nobody.write_text("")
    deliver({"a": leg(secure, verify=False, ssl_context={"ca_cert_path": str(nobody)})})
    until(lambda: status_of(outbox, "a").state == "out")
    assert secure.received == []


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_proxy_is_used_where_the_client_would_use_it(
    variable: str,
    destination: RecordingDestination,
    outbox: Path,
    deliver: Deliver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, destination.url)
    append(outbox, ["one"])
    assert deliver({"a": leg("http://lineage.invalid")}).idle()
    assert one_request(destination).path == "http://lineage.invalid/api/v1/lineage"


def test_a_proxy_is_not_used_for_a_host_that_is_exempt(
    destination: RecordingDestination, outbox: Path, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    append(outbox, ["one"])
    assert deliver({"a": leg(destination)}).idle()
    assert names_in(destination) == ["one"]


# Connections


def test_a_few_connections_are_kept_for_all_events(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    names = append(outbox, map(str, range(500)))
    relay = deliver({"a": leg(destination)}, max_connections=4)
    assert relay.idle()
    more = append(outbox, map(str, range(500, 520)))
    destination.wait_for(lambda d: len(d.events) == 520, 30)
    assert all_once(destination, names + more)
    assert destination.connections_total <= 4
    assert destination.connections_peak <= 4


@pytest.mark.parametrize("most", [1, 3, 16])
def test_at_most_so_many_requests_are_under_way_at_once(
    most: int, destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(201, delay=0.02)
    append(outbox, map(str, range(max(most * 8, 200))))
    assert deliver({"a": leg(destination)}, max_connections=most).idle()
    assert destination.in_flight_peak == most
    assert destination.connections_total == most


def test_connections_that_the_server_closes_after_each_answer_are_made_anew(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(201, headers=[("Connection", "close")])
    names = append(outbox, map(str, range(200)))
    assert deliver({"a": leg(destination)}).idle()
    assert all_once(destination, names)


def test_two_legs_to_one_host_keep_their_keys_apart(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    append(outbox, map(str, range(50)))
    legs = {name: leg(destination, auth={"type": "api_key", "apiKey": f"key-of-{name}"}) for name in "ab"}
    assert deliver(legs).idle()
    by_key = Counter(request.headers["authorization"] for request in destination.received)
    assert by_key == {"Bearer key-of-a": 50, "Bearer key-of-b": 50}


# Order


def test_each_run_s_events_go_in_the_order_of_appending_whatever_the_answers_take(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    chance = random.Random(7)
    choices = [Answer(201, 0.003), Answer(201), Answer(201), Answer(400), Answer(503), Answer(201, 0.001)]
    destination.answer_with(lambda one: chance.choice(choices))
    runs, count = 10, 400
    names = [f"{number % runs}:{number:04d}" for number in range(count)]
    append(outbox, names, run=lambda number: f"run {number % runs}")
    assert deliver({"a": leg(destination)}, max_connections=8, backoff_max=0.02).idle()
    for run in range(runs):
        # As they were sent, refused and repeated ones included: none before the one in front of it was done.
        sent = [name for name in map(name_of, destination.received) if name.startswith(f"{run}:")]
        assert sent == sorted(sent)
        assert list(dict.fromkeys(sent)) == [name for name in names if name.startswith(f"{run}:")]
    assert account(outbox)["pending"] == 0
    assert destination.in_flight_peak > 1


def name_of(request: Received) -> str:
    return str(json.loads(request.body)["job"]["name"])


def test_different_runs_go_side_by_side_and_events_of_one_run_one_by_one(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(201, delay=0.01)
    append(outbox, [str(number) for number in range(30)], run=lambda number: f"run {number % 3}")
    assert deliver({"a": leg(destination)}, max_connections=8).idle()
    # Three runs, so three at once; there would be connections for more.
    assert destination.in_flight_peak == 3


def test_events_without_a_run_wait_for_nobody(
    destination: RecordingDestination, outbox: Path, deliver: Deliver
) -> None:
    destination.answer(201, delay=0.05)
    append(outbox, map(str, range(160)), run=lambda number: "")
    assert deliver({"a": leg(destination)}, max_connections=8).idle()
    assert destination.in_flight_peak == 8
    assert settled(outbox)
