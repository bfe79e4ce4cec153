from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import gzip
import json
import logging
import os
import re
import resource
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import requests

from keepline.demo.destination import Answer, Fault, Received, RecordingDestination

if TYPE_CHECKING:
    from collections.abc import Iterator

SOON = 10  # seconds: a bound for what takes milliseconds
EVENT = {"eventType": "START", "run": {"runId": "r1"}}


@pytest.fixture
def destination() -> Iterator[RecordingDestination]:
    with RecordingDestination() as it:
        yield it


@pytest.fixture
def client() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    name = ["-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1"]
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name]
    made = subprocess.run([*openssl, "-keyout", path], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + made.stdout)
    return path


@pytest.fixture(scope="session")
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def connect(destination: RecordingDestination) -> socket.socket:
    host, port = destination.url.rpartition("/")[2].split(":")
    return socket.create_connection((host, int(port)), timeout=SOON)


def raw_post(body: bytes = b"{}", *headers: str, version: str = "1.1") -> bytes:
    lines = [f"POST /x HTTP/{version}", "Host: here", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def read_to_end(sock: socket.socket) -> bytes:
    with sock.makefile("rb") as stream:
        return stream.read()


# What is recorded


def test_a_request_is_recorded_as_it_was_sent(destination, client):
    before = time.monotonic()
    answer = client.post(destination.url + "/api/v1/lineage?a=b", json=EVENT, headers={"X-Key": "k"})

    assert answer.status_code == 201
    assert answer.content == b""
    [one] = destination.received
    assert (one.method, one.path, one.status, one.connection) == ("POST", "/api/v1/lineage?a=b", 201, 1)
    assert one.headers["x-key"] == "k"
    assert json.loads(one.body) == EVENT
    assert before <= one.at <= time.monotonic()
    assert destination.events == [EVENT]


def test_a_client_that_has_seen_2xx_finds_its_event(destination):
    with concurrent.futures.ThreadPoolExecutor(16) as threads:

        def post_and_look(number: int) -> bool:
            with requests.Session() as session:
                for step in range(20):
                    session.post(destination.url, json={"n": [number, step]})
                    if {"n": [number, step]} not in destination.events:
                        return False
            return True

        assert all(threads.map(post_and_look, range(16)))
    assert len(destination.received) == 16 * 20


def test_only_requests_answered_2xx_become_events(destination, client):
    for status in (199 + 1, 204, 299, 300, 400, 503):
        destination.answer(status)
        client.post(destination.url, json={"status": status}, allow_redirects=False)

    assert [event["status"] for event in destination.events] == [200, 204, 299]
    assert [one.status for one in destination.received] == [200, 204, 299, 300, 400, 503]


def test_a_body_that_is_no_json_object_is_recorded_but_is_no_event(destination, client):
    for body in (b"not json", b"[1]", b"", b"\xff"):
        client.post(destination.url, data=body)

    assert [one.body for one in destination.received] == [b"not json", b"[1]", b"", b"\xff"]
    assert destination.events == []


def test_a_gzip_body_is_recorded_decompressed(destination, client):
    body = gzip.compress(json.dumps(EVENT).encode())
    client.post(destination.url, data=body, headers={"Content-Encoding": "gzip"})

    assert destination.events == [EVENT]


@pytest.mark.parametrize("pieces", [[b"{", b'"a": ', b"1}"], [b'{"a": 1}'], [bytes([b]) for b in b'{"a":1}']])
def test_a_chunked_body_is_recorded_joined(destination, client, pieces):
    client.post(destination.url, data=iter(pieces))

    assert destination.events == [{"a": 1}]
    assert destination.received[0].headers["transfer-encoding"] == "chunked"


def test_a_chunked_gzip_body_with_trailer_arriving_byte_by_byte_is_recorded(destination):
    body = gzip.compress(b'{"a": 1}')
    chunks = b"%x;note=1\r\n%s\r\n%X\r\n%s\r\n0\r\nX-Sum: 1\r\n\r\n" % (5, body[:5], len(body) - 5, body[5:])
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
    with connect(destination) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head + chunks + raw_post(b'{"a": 2}', "Connection: close"):
            sock.send(bytes([byte]))
        answers = read_to_end(sock)

    assert answers.count(b"HTTP/1.1 201 Created") == 2
    assert destination.events == [{"a": 1}, {"a": 2}]


def test_a_body_of_50_mb_is_recorded_whole(destination, client):
    body = b"x" * 50_000_000
    assert client.post(destination.url, data=body).status_code == 201
    assert destination.received[0].body == body


def test_a_client_that_expects_100_continue_is_told_to_go_on(destination):
    with connect(destination) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"{}")
        assert sock.recv(100).startswith(b"HTTP/1.1 201 Created\r\n")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01 a TLS hello\r\n\r\n",
        b"GET / FTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 65_536,
        raw_post(b"not gzip", "Content-Encoding: gzip"),
        raw_post(gzip.compress(b"cut short")[:-9], "Content-Encoding: gzip"),
        b"GET / HTTP/1.1\r\nX: " + b"x" * 65_536,
    ],
)
def test_what_is_no_http_request_is_answered_400_and_not_recorded(destination, sent):
    with connect(destination) as sock:
        sock.sendall(sent)
        assert read_to_end(sock).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert destination.received == []


def test_clear_forgets_requests_and_counts_anew(destination, client):
    client.post(destination.url, json=EVENT)
    with connect(destination):
        destination.wait_for(lambda d: d.connections_open == 2, SOON)
    destination.wait_for(lambda d: d.connections_open == 1, SOON)
    destination.clear()

    assert (destination.received, destination.events) == ([], [])
    assert (destination.connections_open, destination.connections_peak) == (1, 1)
    assert (destination.connections_total, destination.in_flight_peak) == (0, 0)


def test_a_request_cleared_while_in_flight_stays_forgotten(destination):
    destination.answer_with(lambda one: destination.clear() or Answer(201))
    with connect(destination) as sock:
        sock.sendall(raw_post(b"{}", "Connection: close"))
        assert read_to_end(sock).startswith(b"HTTP/1.1 201")
    assert (destination.received, destination.events) == ([], [])


# Connections


def test_a_connection_is_kept_for_the_next_request(destination, client):
    for _ in range(3):
        client.post(destination.url, json=EVENT)

    assert [one.connection for one in destination.received] == [1, 1, 1]
    assert (destination.connections_open, destination.connections_total) == (1, 1)


def test_each_connection_is_counted(destination):
    for _ in range(3):
        with requests.Session() as session:
            session.post(destination.url, json=EVENT)
    destination.wait_for(lambda d: d.connections_open == 0, SOON)

    assert [one.connection for one in destination.received] == [1, 2, 3]
    assert destination.connections_total == 3


@pytest.mark.parametrize(
    ("version", "header", "kept"),
    [
        ("1.1", "X: y", True),
        ("1.1", "Connection: close", False),
        ("1.0", "X: y", False),
        ("1.0", "Connection: keep-alive", True),
    ],
)
def test_a_connection_is_kept_as_the_client_wants(destination, version, header, kept):
    with connect(destination) as sock:
        sock.sendall(raw_post(b"{}", header, version=version))
        assert sock.recv(1000).startswith(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n")
        if kept:
            sock.sendall(raw_post(b"{}", "Connection: close"))
            assert read_to_end(sock).startswith(b"HTTP/1.1 201")
        else:
            assert sock.recv(1000) == b""


def test_requests_sent_ahead_are_answered_in_order(destination):
    destination.answer_with(lambda one: Answer(200 + int(one.body), delay=0.02 if one.body == b"1" else 0))
    with connect(destination) as sock:
        sock.sendall(raw_post(b"1") + raw_post(b"2") + raw_post(b"3", "Connection: close"))
        answers = read_to_end(sock)

    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"201", b"202", b"203"]
    assert destination.in_flight_peak == 1


def test_64_connections_are_served_at_once(destination):
    destination.fault(Fault.NO_ANSWER)
    with contextlib.ExitStack() as sockets:
        for _ in range(64):
            sockets.enter_context(connect(destination)).sendall(raw_post())
        destination.wait_for(lambda d: d.in_flight == 64, SOON)
        assert destination.connections_open == 64
    destination.wait_for(lambda d: d.connections_open == 0, SOON)

    assert (destination.connections_peak, destination.in_flight_peak, destination.in_flight) == (64, 64, 0)


def test_https_is_spoken_with_a_servers_context(client, certificate, tls):
    with RecordingDestination(tls=tls) as destination:
        assert destination.url.startswith("https://127.0.0.1:")
        assert client.post(destination.url, json=EVENT, verify=str(certificate)).status_code == 201
        assert destination.events == [EVENT]


def test_a_failed_tls_handshake_ends_its_connection_and_no_other(client, certificate, tls):
    with RecordingDestination(tls=tls) as destination:
        with connect(destination) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                read_to_end(sock)
        destination.wait_for(lambda d: d.connections_open == 0, SOON)
        assert client.post(destination.url, json=EVENT, verify=str(certificate)).status_code == 201


# Answers


def test_an_answer_has_the_status_headers_and_body_it_was_given(destination, client):
    destination.answer(429, headers=[("Retry-After", "7")], body=b"slow down")
    answer = client.post(destination.url)

    assert (answer.status_code, answer.headers["Retry-After"], answer.content) == (429, "7", b"slow down")


def test_a_status_that_http_does_not_know_is_answered_all_the_same(destination, client):
    destination.answer(599)
    assert client.post(destination.url).status_code == 599


def test_a_content_length_that_was_given_replaces_the_true_one(destination, client):
    destination.answer(200, headers=[("Content-Length", "3")], body=b"12345")
    assert client.post(destination.url).content == b"123"


def test_204_has_no_body(destination, client):
    destination.answer(204, body=b"not sent")
    for _ in range(2):
        answer = client.post(destination.url)
        assert (answer.status_code, answer.content) == (204, b"")
        assert "Content-Length" not in answer.headers


def test_a_redirect_is_followed_by_a_client_that_follows(destination, client):
    destination.answer(302, headers=[("Location", "/login")], times=1)
    answer = client.post(destination.url)

    assert answer.status_code == 201
    assert [(one.path, one.status) for one in destination.received] == [("/", 302), ("/login", 201)]


def test_an_answer_for_a_number_of_times_gives_way_to_what_was_set_before(destination, client):
    destination.answer(202)
    destination.answer(500, times=2)
    destination.answer(429, times=1)
    destination.answer(400, times=0)

    assert [client.post(destination.url).status_code for _ in range(5)] == [429, 500, 500, 202, 202]


def test_an_answer_without_times_replaces_all_that_was_set(destination, client):
    destination.answer(500, times=2)
    destination.answer(202)

    assert [client.post(destination.url).status_code for _ in range(2)] == [202, 202]


def test_delayed_answers_are_delayed_side_by_side(destination):
    destination.answer(201, delay=0.5)
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: requests.post(destination.url, json=EVENT), range(8)))
    took = time.monotonic() - start

    assert [answer.status_code for answer in answers] == [201] * 8
    assert 0.5 <= took < 4
    assert destination.in_flight_peak == 8


def test_a_delayed_request_is_received_at_once_and_an_event_when_it_is_answered(destination):
    destination.answer(201, delay=SOON * 10)
    with connect(destination) as sock:
        sock.sendall(raw_post())
        destination.wait_for(lambda d: d.in_flight == 1, SOON)
        assert [one.status for one in destination.received] == [None]
    destination.wait_for(lambda d: d.in_flight == 0, SOON)

    assert [one.status for one in destination.received] == [None]
    assert destination.events == []


def test_the_answer_can_be_chosen_for_each_request(destination, client):
    def choose(one: Received) -> Answer | Fault:
        return Fault.GARBAGE if one.path == "/garbage" else Answer(int(one.path[1:]))

    destination.answer_with(choose)
    assert client.post(destination.url + "/207").status_code == 207
    with pytest.raises(requests.ConnectionError):
        client.post(destination.url + "/garbage")
    assert client.post(destination.url + "/503").status_code == 503


def test_a_chooser_that_fails_is_answered_500_and_logged(destination, client, caplog):
    destination.answer_with(lambda one: 1 // 0)
    assert client.post(destination.url).status_code == 500
    assert "ZeroDivisionError" in caplog.text


def test_a_chooser_that_would_stop_its_own_server_is_told_that_it_cannot(destination, client, caplog):
    destination.answer_with(lambda one: destination.down())
    assert client.post(destination.url).status_code == 500
    assert "can't be called from the server's own thread" in caplog.text


# Faults


def is_reset(sock: socket.socket) -> bool:
    try:
        read_to_end(sock)
    except ConnectionResetError:
        return True
    return False


def test_close_on_accept_closes_before_a_request(destination):
    destination.fault(Fault.CLOSE_ON_ACCEPT, times=1)
    with connect(destination) as sock:
        assert sock.recv(1) == b""
    assert (destination.connections_total, destination.connections_open) == (1, 0)
    assert destination.received == []
    assert requests.post(destination.url).status_code == 201


def test_close_on_accept_ends_open_connections_before_their_next_answer(destination):
    with connect(destination) as sock:
        destination.wait_for(lambda d: d.connections_open == 1, SOON)
        destination.fault(Fault.CLOSE_ON_ACCEPT)
        sock.sendall(raw_post())
        assert read_to_end(sock) == b""


def test_close_on_accept_comes_before_the_tls_handshake(tls):
    with RecordingDestination(tls=tls) as destination:
        destination.fault(Fault.CLOSE_ON_ACCEPT)
        with connect(destination) as sock:
            assert sock.recv(1) == b""


def test_reset_before_answer_resets(destination):
    destination.fault(Fault.RESET_BEFORE_ANSWER)
    with connect(destination) as sock:
        sock.sendall(raw_post())
        assert is_reset(sock)
    assert [one.status for one in destination.received] == [None]
    assert destination.events == []


def test_close_before_answer_closes_without_a_reset(destination):
    destination.fault(Fault.CLOSE_BEFORE_ANSWER)
    with connect(destination) as sock:
        sock.sendall(raw_post())
        assert read_to_end(sock) == b""
    assert [one.status for one in destination.received] == [None]


def test_reset_mid_body_sends_half_of_what_it_promised(destination):
    destination.fault(Fault.RESET_MID_BODY)
    with connect(destination) as sock:
        sock.sendall(raw_post())
        half = b"HTTP/1.1 201 Created\r\nContent-Length: 2000\r\n\r\n" + b" " * 1000
        assert sock.recv(len(half), socket.MSG_WAITALL) == half
        assert is_reset(sock)
    assert destination.events == []


def test_slow_drip_sends_a_byte_at_a_time_until_the_peer_goes(destination):
    destination.fault(Fault.SLOW_DRIP)
    with connect(destination) as sock:
        sock.sendall(raw_post())
        assert [sock.recv(100) for _ in range(4)] == [b"H", b"T", b"T", b"P"]
        assert destination.in_flight == 1
    destination.wait_for(lambda d: d.connections_open == d.in_flight == 0, SOON)


def test_an_endless_body_goes_on_as_long_as_it_is_read_and_holds_nobody_up(destination, client):
    destination.answer_with(lambda one: Fault.ENDLESS_BODY if one.path == "/endless" else Answer(201))
    with client.post(destination.url + "/endless", stream=True) as answer:
        assert answer.status_code == 201
        body = answer.iter_content(1 << 16)
        for _ in range(200):
            assert not next(body).strip()
        assert requests.post(destination.url).status_code == 201
        for _ in range(200):
            next(body)
    destination.wait_for(lambda d: d.connections_open == d.in_flight == 0, SOON)


def test_an_endless_body_that_is_not_read_takes_no_memory_and_holds_nobody_up(destination, client):
    destination.answer_with(lambda one: Fault.ENDLESS_BODY if one.path == "/x" else Answer(201))
    with connect(destination) as sock:
        sock.sendall(raw_post())
        assert sock.recv(1, socket.MSG_PEEK) == b"H"
        memory = psutil.Process().memory_info().rss
        for _ in range(300):
            client.post(destination.url)
        assert psutil.Process().memory_info().rss - memory < 16_000_000


def test_no_answer_leaves_the_client_waiting(destination, client):
    destination.fault(Fault.NO_ANSWER)
    with pytest.raises(requests.ReadTimeout):
        client.post(destination.url, timeout=0.1)
    destination.wait_for(lambda d: d.in_flight == 0, SOON)
    assert [one.status for one in destination.received] == [None]


def test_garbage_is_not_http(destination, client):
    destination.fault(Fault.GARBAGE)
    with pytest.raises(requests.ConnectionError, match="BadStatusLine"):
        client.post(destination.url)


@pytest.mark.parametrize("fault", list(Fault))
def test_a_fault_for_a_number_of_times_is_followed_by_answers(destination, fault):
    destination.fault(fault, times=1)
    with contextlib.suppress(requests.RequestException), requests.Session() as session:
        session.post(destination.url, json=EVENT, timeout=0.1, stream=True)

    assert requests.post(destination.url, json=EVENT).status_code == 201
    assert destination.events == [EVENT]


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.CLOSE_ON_ACCEPT])
def test_every_fault_can_be_had_over_tls(fault, certificate, tls):
    trust = ssl.create_default_context(cafile=certificate)
    with RecordingDestination(tls=tls) as destination:
        destination.fault(fault)
        with trust.wrap_socket(connect(destination), server_hostname="127.0.0.1") as sock:
            sock.sendall(raw_post())
            destination.wait_for(lambda d: len(d.received) == 1, SOON)
            if fault in (Fault.RESET_BEFORE_ANSWER, Fault.RESET_MID_BODY):
                # Python's ssl reports a reset as an end; the socket beneath tells.
                with socket.socket(fileno=os.dup(sock.fileno())) as beneath:
                    beneath.settimeout(SOON)
                    assert is_reset(beneath)
            elif fault is Fault.CLOSE_BEFORE_ANSWER:
                assert sock.recv(1) == b""
            elif fault is not Fault.NO_ANSWER:
                assert sock.recv(1) in b"H\0"
        destination.wait_for(lambda d: d.connections_open == d.in_flight == 0, SOON)
        assert [one.status for one in destination.received] == [None]


# Down and up


def test_down_refuses_connects_and_up_listens_on_the_same_port(destination, client):
    url = destination.url
    for _ in range(3):
        assert client.post(url, json=EVENT).status_code == 201
        destination.down()
        with pytest.raises(ConnectionRefusedError):
            connect(destination)
        destination.up()
    assert destination.url == url
    assert client.post(url, json=EVENT).status_code == 201


def test_down_resets_open_connections_and_requests_in_flight(destination):
    destination.fault(Fault.NO_ANSWER)
    with connect(destination) as idle, connect(destination) as waiting:
        waiting.sendall(raw_post())
        destination.wait_for(lambda d: d.in_flight == 1 and d.connections_open == 2, SOON)
        destination.down()
        assert (destination.connections_open, destination.in_flight) == (0, 0)
        assert is_reset(idle)
        assert is_reset(waiting)


def test_down_resets_a_connection_in_its_tls_handshake(tls):
    with RecordingDestination(tls=tls) as destination, connect(destination) as sock:
        destination.wait_for(lambda d: d.connections_open == 1, SOON)
        destination.down()
        assert destination.connections_open == 0
        assert is_reset(sock)


def test_down_and_up_may_be_called_twice(destination, client):
    destination.down()
    destination.down()
    destination.up()
    destination.up()
    assert client.post(destination.url).status_code == 201


def test_nobody_is_given_the_port_while_the_destination_is_down(destination):
    destination.down()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", int(destination.url.rpartition(":")[2])))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_down_reaches_clients_though_a_forked_process_holds_the_listening_socket(destination):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    try:
        destination.down()
        with pytest.raises(ConnectionRefusedError):
            connect(destination)
        destination.up()
        assert requests.post(destination.url).status_code == 201
    finally:
        os.close(write)
        os.waitpid(pid, 0)


# Waiting


def test_wait_for_wakes_at_the_change_it_waits_for(destination):
    poster = threading.Timer(0.05, requests.post, [destination.url], {"json": EVENT})
    poster.start()
    destination.wait_for(lambda d: d.events == [EVENT], SOON)
    poster.join()


def test_wait_for_that_times_out_says_what_there_was(destination, client):
    client.post(destination.url, json=EVENT)
    with pytest.raises(TimeoutError) as caught:
        destination.wait_for(lambda d: len(d.events) == 2, 0.01)

    assert str(caught.value) == (
        f"not as waited for within 0.01 s: <RecordingDestination {destination.url}: "
        "requests {'201': 1}, 0 in flight; 1 events; connections 1 open, 1 at most, 1 in all>"
    )


# The end


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize("fault", [None, *Fault])
def test_stop_leaves_no_thread_and_no_descriptor_behind(fault):
    gc.collect()
    threads, descriptors = threading.active_count(), open_descriptors()
    with contextlib.ExitStack() as sockets:
        with RecordingDestination() as destination:
            if fault:
                destination.fault(fault)
            for _ in range(10):
                with contextlib.suppress(ConnectionError):
                    sockets.enter_context(connect(destination)).sendall(raw_post())
            destination.wait_for(lambda d: d.connections_total == 10, SOON)
        assert threading.active_count() == threads
        assert destination.connections_open == 0
    assert open_descriptors() == descriptors


def test_what_was_recorded_can_be_read_after_stop(client):
    with RecordingDestination() as destination:
        client.post(destination.url, json=EVENT)
    assert destination.events == [EVENT]


def test_stop_may_come_twice_or_without_start():
    destination = RecordingDestination()
    destination.stop()
    destination.start()
    destination.stop()
    destination.stop()
    with pytest.raises(RuntimeError, match="isn't started, or was stopped"):
        destination.up()


def test_an_address_in_use_is_refused_and_leaves_nothing_behind(destination):
    threads, descriptors = threading.active_count(), open_descriptors()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        RecordingDestination(port=taken.getsockname()[1]).start()
    assert threading.active_count() == threads
    assert open_descriptors() == descriptors


def test_a_destination_out_of_descriptors_accepts_again_when_there_are_some(destination):
    refusals: list[logging.LogRecord] = []
    refused_twice = threading.Event()

    class Watcher(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            refusals.append(record)
            if len(refusals) == 2:
                refused_twice.set()

    logger, watcher = logging.getLogger("keepline.demo.server"), Watcher()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as sock, contextlib.ExitStack() as undo:
        logger.addHandler(watcher)
        undo.callback(logger.removeHandler, watcher)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, open_descriptors())) + 1, hard))
        undo.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with contextlib.suppress(OSError):
            while True:
                undo.callback(os.close, os.dup(sock.fileno()))
        sock.connect(("127.0.0.1", int(destination.url.rpartition(":")[2])))
        sock.sendall(raw_post())
        assert refused_twice.wait(SOON)
        undo.close()
        destination.wait_for(lambda d: d.events == [{}], SOON)
    assert "can't accept a connection" in refusals[0].getMessage()
    assert refusals[1].created - refusals[0].created > 0.09
