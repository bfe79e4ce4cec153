"""``relay: inline`` and ``relay: external``: who delivers when nobody is started."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support_outbox import child
from tests.support_relay import (
    EMITTER,
    OpenLineageClient,
    Process,
    account,
    all_once,
    arrive_once,
    client,
    leg,
    names_in,
    relay_of,
    run_event,
    settled,
    status,
    threads,
    transport,
    until,
)

from keepline.demo.destination import Fault, RecordingDestination
from keepline.errors import RelayError
from keepline.outbox.files import OutboxFiles
from keepline.relay.ending import stop

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

Start = Callable[..., Process]


def inline(outbox: Path, legs: dict[str, Any], **keys: Any) -> OpenLineageClient:
    return client(outbox, legs, relay="inline", **{"stop_timeout": 0.3, **keys})


def configured(outbox: Path, destination: RecordingDestination, **keys: Any) -> str:
    return json.dumps(transport(outbox, {"a": leg(destination)}, **{"relay": "inline", **keys}))


ONE_SHOT = (
    "from tests.support_relay import OpenLineageClient, run_event\n"
    "c = OpenLineageClient()\n"
    "for n in range(50): c.emit(run_event(str(n), run=n))\n"
)
ALL = [str(number) for number in range(50)]


def test_a_thread_of_this_process_delivers_and_nothing_is_started(
    outbox: Path, destination: RecordingDestination
) -> None:
    before = threads("self")
    emitting = inline(outbox, {"a": leg(destination)})
    assert threads("self") == before
    for name in ALL:
        emitting.emit(run_event(name, run=int(name)))
    arrive_once(destination, ALL)
    found = relay_of(outbox)
    assert found is not None
    assert found.pid == os.getpid()
    assert threads("self") == before + 1
    assert emitting.close(10)
    until(lambda: threads("self") == before)
    assert relay_of(outbox) is None
    assert account(outbox) == {"delivered": 50, "dead": 0, "pending": 0}


def test_a_client_that_was_closed_delivers_again_when_it_emits_again(
    outbox: Path, destination: RecordingDestination
) -> None:
    emitting = inline(outbox, {"a": leg(destination)}, look_every=3600)
    names = []
    for number in range(3):
        names.append(str(number))
        emitting.emit(run_event(str(number)))
        assert emitting.close(10)
        assert all_once(destination, names)


def test_a_one_shot_script_delivers_before_it_ends(
    process: Start, outbox: Path, destination: RecordingDestination
) -> None:
    destination.answer(201, delay=0.02)
    script = process(ONE_SHOT, OPENLINEAGE__TRANSPORT=configured(outbox, destination))
    assert script.end() == 0, script.output
    assert all_once(destination, ALL)
    assert script.output == ""


@pytest.mark.parametrize("fault", [None, Fault.NO_ANSWER], ids=["down", "silent"])
def test_a_one_shot_script_ends_in_a_bounded_time_with_its_destination_down_and_keeps_the_events(
    fault: Fault | None, process: Start, outbox: Path, destination: RecordingDestination
) -> None:
    if fault is None:
        destination.down()
    else:
        destination.fault(fault)
    settings = configured(outbox, destination, exit_timeout=0.5, stop_timeout=0.5)
    script = process(ONE_SHOT + "print('emitted', flush=True)", OPENLINEAGE__TRANSPORT=settings)
    script.said("emitted")
    began = time.monotonic()
    assert script.end() == 0, script.output
    assert time.monotonic() - began < 0.5 + 0.5 + 2.0
    assert script.output.splitlines()[0] == "emitted"
    assert account(outbox) == {"delivered": 0, "dead": 0, "pending": 50}


def test_close_tells_whether_everything_was_delivered(
    outbox: Path, destination: RecordingDestination
) -> None:
    destination.down()
    emitting = inline(outbox, {"a": leg(destination)})
    emitting.emit(run_event("one"))
    assert emitting.close(0.2) is False
    destination.up()
    assert emitting.close(10) is True  # takes up what was left
    assert names_in(destination) == ["one"]


def test_close_without_a_bound_waits_until_the_destination_is_back(
    process: Start, outbox: Path, destination: RecordingDestination
) -> None:
    destination.down()
    code = ONE_SHOT + "print('emitted', flush=True)\nprint('closed', c.close(), flush=True)"
    script = process(code, OPENLINEAGE__TRANSPORT=configured(outbox, destination))
    script.said("emitted")
    until(lambda: bool(status(outbox).destinations) and status(outbox).destinations[0].state == "out")
    destination.up()
    script.said("closed True")
    assert all_once(destination, ALL)


def test_of_two_processes_with_one_outbox_one_delivers_for_both_and_the_other_takes_over(
    process: Start, outbox: Path, destination: RecordingDestination
) -> None:
    settings = configured(outbox, destination)
    first, second = (process(EMITTER, OPENLINEAGE__TRANSPORT=settings) for _ in range(2))
    first.tell("0 20")
    first.said("done 0")
    names = [str(number) for number in range(20)]
    arrive_once(destination, names)
    second.tell("100 20")
    second.said("done 100")
    names += [str(number) for number in range(100, 120)]
    arrive_once(destination, names)
    assert relay_of(outbox).pid == first.pid  # type: ignore[union-attr]
    assert threads(second.pid) == 1
    first.signal(signal.SIGKILL)
    assert first.end() == -signal.SIGKILL
    number = 1000

    def taken_over() -> bool:
        nonlocal number
        second.tell(f"{number} 1")
        second.said(f"done {number}")
        names.append(str(number))
        number += 1
        found = relay_of(outbox)
        return found is not None and found.pid == second.pid

    until(taken_over)
    until(lambda: set(names_in(destination)) == set(names))
    assert second.end() == 0


def test_a_process_takes_over_at_its_end_what_another_has_left(
    process: Start, outbox: Path, destination: RecordingDestination
) -> None:
    code = (
        "from tests.support_relay import OpenLineageClient, run_event\n"
        "c = OpenLineageClient(); print('ready', flush=True); input()\n"
        "c.emit(run_event('mine')); print('emitted', flush=True); input()\n"
        "print('closed', c.close(10), flush=True)"
    )
    settings = configured(outbox, destination, look_every=3600)
    destination.down()
    first, second = (process(code, OPENLINEAGE__TRANSPORT=settings) for _ in range(2))
    for one in (first, second):
        one.tell("go")
        one.said("emitted")
    until(lambda: relay_of(outbox) is not None)
    first.signal(signal.SIGKILL)
    assert first.end() == -signal.SIGKILL
    destination.up()
    second.tell("go")
    second.said("closed True")
    assert names_in(destination) == ["mine", "mine"]


def test_a_fork_of_an_inline_process_leaves_the_parent_s_relay_alone_and_delivers_after_it(
    secure: RecordingDestination, certificate: Path, outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Over TLS, where to close the parent's connections in a child would end them.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    emitting = inline(outbox, {"a": leg(secure)}, exit_timeout=5)
    emitting.emit(run_event("parent"))
    arrive_once(secure, ["parent"])
    opened = secure.connections_total

    def emit() -> None:
        emitting.emit(run_event("child"))
        assert relay_of(outbox).pid == os.getppid()  # type: ignore[union-attr]

    with child(emit) as one:
        assert one.end() == 0
    arrive_once(secure, ["parent", "child"])
    for number in range(20):
        emitting.emit(run_event(str(number)))
    arrive_once(secure, ["parent", "child", *map(str, range(20))])
    assert secure.connections_total == opened
    assert emitting.close(10)


def test_a_child_that_outlives_an_inline_process_can_deliver(
    process: Start, outbox: Path, destination: RecordingDestination
) -> None:
    code = (
        "import os, sys, time\n"
        "from tests.support_relay import OpenLineageClient, run_event, relay_of, until\n"
        "c = OpenLineageClient(); c.emit(run_event('parent'))\n"
        "c.transport._inline._relay.result().wait_idle(30)\n"
        "parent = os.getpid()\n"
        "if os.fork():\n"
        "    os.kill(parent, 9)\n"
        "until(lambda: os.getppid() != parent)\n"
        "c.emit(run_event('child'))\n"
        "assert c.close(20)\n"
    )
    process(code, OPENLINEAGE__TRANSPORT=configured(outbox, destination))
    arrive_once(destination, ["parent", "child"])


def test_a_leg_that_an_inline_relay_can_t_take_is_told_of_and_keeps_the_events(
    outbox: Path, destination: RecordingDestination, caplog: pytest.LogCaptureFixture
) -> None:
    emitting = inline(outbox, {"a": leg(destination)})
    (outbox / "ledger.db").mkdir(parents=True)
    emitting.emit(run_event("one"))
    assert emitting.close(5) is False
    assert "keepline can't deliver from this process; events wait in the outbox" in caplog.text


# External


def test_with_an_external_relay_nothing_is_started_and_what_runs_delivers(
    process: Start, keepline: Start, outbox: Path, destination: RecordingDestination
) -> None:
    settings = configured(outbox, destination, relay="external")
    emitter = process(EMITTER, OPENLINEAGE__TRANSPORT=settings)
    emitter.tell("0 20")
    emitter.said("done 0")
    assert relay_of(outbox) is None
    assert status(outbox).waiting == 20
    running = keepline("relay", OPENLINEAGE__TRANSPORT=settings)
    names = [str(number) for number in range(20)]
    arrive_once(destination, names)
    emitter.tell("100 20")
    arrive_once(destination, names + [str(number) for number in range(100, 120)])
    assert relay_of(outbox).pid == running.pid  # type: ignore[union-attr]
    running.signal(signal.SIGTERM)
    assert running.end() == 0
    assert relay_of(outbox) is None


def test_the_program_whose_thread_delivers_is_not_ended_by_who_wants_to_end_a_relay(
    outbox: Path, destination: RecordingDestination
) -> None:
    emitting = client(outbox, {"a": leg(destination)}, relay="inline")
    emitting.emit(run_event("one"))
    arrive_once(destination, ["one"])
    with pytest.raises(RelayError, match="is a thread of another program"):
        stop(OutboxFiles(outbox), 5)
    assert emitting.close()


def test_closing_as_the_client_does_by_default_is_bounded_in_an_outage(outbox: Path) -> None:
    emitting = client(outbox, {"a": leg("http://127.0.0.1:1")}, relay="inline", exit_timeout=0.2)
    emitting.emit(run_event("one"))
    assert not emitting.close()
    assert not settled(outbox)
