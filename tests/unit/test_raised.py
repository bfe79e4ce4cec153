"""What an exception of a transport amounts to, by the shapes in which libraries carry a status."""

from __future__ import annotations

from collections.abc import Mapping
from email.message import Message
from typing import Any
from urllib.error import HTTPError

import pytest
import requests

from keepline.destinations.base import Answer
from keepline.destinations.raised import answer_of, kafka_answer

HEADERS = {"retry-after": "7"}


def made(name: str, base: type[Exception] = Exception, /, **attributes: Any) -> Exception:
    """An exception of a class of this name, with these attributes."""
    error: Exception = type(name, (base,), {})("in words")
    vars(error).update(attributes)
    return error


def of_requests(status: int) -> Exception:
    response = requests.Response()
    response.status_code = status
    response.headers.update(HEADERS)
    response._content = b"the body"
    return requests.HTTPError("in words", response=response)


def of_urllib(status: int) -> Exception:
    headers = Message()
    headers["Retry-After"] = "7"
    return HTTPError("http://127.0.0.1", status, "in words", headers, None)


def of_botocore(status: int) -> Exception:
    told = {"HTTPStatusCode": status, "HTTPHeaders": HEADERS}
    return made("ClientError", response={"Error": {"Code": "X"}, "ResponseMetadata": told})


def of_aiohttp(status: int) -> Exception:
    return made("ClientResponseError", status=status, headers=HEADERS)


def of_google(status: int) -> Exception:
    base = type("GoogleAPICallError", (Exception,), {"grpc_status_code": None})
    return made("ServiceUnavailable", base, code=status, response=None)


def of_httpx(status: int) -> Exception:
    class Response:
        status_code = status
        headers = HEADERS

        @property
        def content(self) -> bytes:
            raise RuntimeError("it was not read")

    return made("HTTPStatusError", response=Response())


LIBRARIES = [of_requests, of_urllib, of_botocore, of_aiohttp, of_google, of_httpx]


def answer(error: BaseException, *, of_event: bool = True) -> Answer:
    return answer_of(error, "the transport failed", ("s3cr3t-key",), of_event=of_event)


def wrapped(error: Exception, times: int = 1) -> Exception:
    """As the client's composite, file and datazone transports raise what they meet."""
    for _ in range(times):
        try:
            raise RuntimeError("the whole event, " * 50) from error
        except RuntimeError as outer:
            error = outer
    return error


@pytest.mark.parametrize("status", [302, 400, 401, 404, 422, 429, 500, 503])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_status_is_read_from_every_library_s_exceptions(library: Any, status: int) -> None:
    found = answer(library(status))
    assert (found.status, found.accepted, found.refused) == (status, False, False)
    assert "in words" in found.excerpt or found.excerpt == "the body"
    assert found.retry_after == ("" if library is of_google else "7")


@pytest.mark.parametrize("status", [0, 99, 200, 204, 600, True, "500", None])
@pytest.mark.parametrize("library", [of_urllib, of_botocore, of_aiohttp, of_google, of_httpx])
def test_no_exception_is_taken_for_a_delivery(library: Any, status: Any) -> None:
    found = answer(library(status))
    assert (found.status, found.accepted, found.refused) == (None, False, False)
    assert "in words" in found.error


@pytest.mark.parametrize(
    "error",
    [
        made("ServerException", code=404),  # a database's own number
        made("Odd", status=503),
        made("Odd", response=404),
        made("Odd", response={"ResponseMetadata": None}),
        made("Odd", response={}),
        SystemExit(404),
    ],
)
def test_a_bare_number_is_no_status(error: BaseException) -> None:
    assert answer(error).status is None


@pytest.mark.parametrize("status", [401, 403, 404, 405, 408, 425, 429, 500, 503])
def test_what_an_inner_exception_says_of_the_destination_counts(status: int) -> None:
    assert answer(wrapped(of_botocore(status), 2)).status == status


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_what_an_inner_exception_was_refused_need_not_be_the_event(status: int) -> None:
    found = answer(wrapped(of_requests(status)))
    assert (found.status, found.refused) == (None, False)
    assert "in words" in found.error


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_what_is_refused_before_an_event_is_sent_is_not_the_event(status: int) -> None:
    found = answer(of_requests(status), of_event=False)
    assert (found.status, found.refused) == (None, False)


def test_the_root_is_told_first_and_what_quotes_the_event_is_cut() -> None:
    found = answer(wrapped(made("Root")))
    assert found.error.startswith("the transport failed: Root: in words, then RuntimeError: the whole event")
    assert len(found.error) < 250


def test_secrets_are_hidden() -> None:
    assert "s3cr3t" not in answer(ValueError("s3cr3t-key")).error


def test_exceptions_in_a_circle_end() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert answer(one).status is None


@pytest.mark.parametrize(("number", "refused"), [(10, True), (87, True), (-192, False), (29, False)])
def test_only_what_kafka_says_of_the_message_is_a_refusal(number: int, refused: bool) -> None:
    class KafkaError:
        def code(self) -> int:
            return number

        def __str__(self) -> str:
            return "KafkaError{s3cr3t-key}"

    said = KafkaError()
    assert kafka_answer(said, "the broker", ("s3cr3t-key",)).refused is refused
    assert kafka_answer(said, "the broker", ("s3cr3t-key",)).error == "the broker: KafkaError{***}"
    raised = type("KafkaException", (Exception,), {})(said)
    assert answer(raised).refused is refused
    assert answer(raised, of_event=False).refused is False


def test_a_mapping_with_attributes_is_read_by_either() -> None:
    class Headers(Mapping[str, str]):
        def __getitem__(self, name: str) -> str:
            return {"retry-after": "9"}[name.lower()]

        def __iter__(self) -> Any:
            return iter(["retry-after"])

        def __len__(self) -> int:
            return 1

    assert answer(made("ClientResponseError", status=429, headers=Headers())).retry_after == "9"
