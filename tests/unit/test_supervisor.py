from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from keepline.airflow import supervisor


class Decoder:
    """Answers by their order, as the connection of a task does, and answers the first when it may."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.sent = threading.Event()
        self.answers = threading.Event()

    def send(self, request: str) -> str:
        self.asked.append(request)
        self.sent.set()
        self.answers.wait(20)
        return self.asked.pop(0)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Has a Task SDK of a version installed; one without the place that is looked for, given no class."""
    supervisor.share.cache_clear()

    def module(name: str, **content: Any) -> None:
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)

    def make(version: str, decoder: type | None) -> None:
        for name in ("airflow", "airflow.sdk.execution_time"):
            module(name)
        module("airflow.sdk", __version__=version)
        module("airflow.sdk.execution_time.comms", **({"CommsDecoder": decoder} if decoder else {}))

    yield make
    supervisor.share.cache_clear()


@pytest.mark.parametrize("version", ["1.0.3", "1.0.6", "1.1.8", "1.2.0", "1.2.0rc1"])
def test_where_the_sdk_holds_no_lock_until_the_answer_keepline_does(version: str, install: Any):
    class Own(Decoder):
        pass

    install(version, Own)
    assert supervisor.share()
    assert supervisor.share()  # once is enough

    decoder, got = Own(), {}
    one = threading.Thread(target=lambda: got.update(one=decoder.send("one")))
    other = threading.Thread(target=lambda: got.update(other=decoder.send("other")))
    one.start()
    decoder.sent.wait(20)
    other.start()
    decoder.answers.set()
    one.join(20)
    other.join(20)
    assert got == {"one": "one", "other": "other"}
    assert Own.send is not Decoder.send
    assert not hasattr(Own.send.__wrapped__, "__wrapped__")  # type: ignore[attr-defined]


@pytest.mark.parametrize("version", ["1.2.1", "1.2.2", "1.3.2", "2.0.0"])
def test_where_the_sdk_holds_a_lock_nothing_is_changed(version: str, install: Any):
    install(version, Decoder)
    before = Decoder.send
    assert supervisor.share()
    assert Decoder.send is before


def test_where_a_request_and_its_answer_are_two_calls_no_thread_is_used(install: Any):
    install("1.0.2", None)
    assert not supervisor.share()
    supervisor.share.cache_clear()
    install("4.0.0", SimpleNamespace)
    assert not supervisor.share()


def test_where_there_is_no_supervisor_nothing_is_shared(monkeypatch: pytest.MonkeyPatch):
    supervisor.share.cache_clear()
    monkeypatch.setitem(sys.modules, "airflow.sdk", None)
    assert supervisor.share()
    supervisor.share.cache_clear()


def test_a_handler_of_a_signal_may_ask_while_the_task_waits_for_an_answer():
    class Asked(Decoder):
        def send(self, request: str) -> str:
            return request if request == "again" else str(locked(self, "again"))

    locked = supervisor.one_at_a_time(Asked.send)
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(locked(Asked(), "first")), daemon=True)
    thread.start()
    thread.join(20)
    assert got == ["again"]
