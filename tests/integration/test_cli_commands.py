"""The commands ``status``, ``stop``, ``flush`` and ``relay``, as somebody types them."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support_relay import (
    Process,
    account,
    all_once,
    append,
    arrive_once,
    client,
    kill,
    leg,
    relay_of,
    run_event,
    settled,
    status,
    status_of,
    transport,
    until,
)

from keepline import __version__
from keepline.cli.common import age
from keepline.demo.destination import RecordingDestination
from keepline.outbox.files import OutboxFiles
from keepline.relay.lock import RelayLock

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

Keepline = Callable[..., Process]

STATUS = {
    "outbox": str,
    "relay": dict,
    "waiting": int,
    "waiting_age": (float, type(None)),
    "commands": int,
    "refused": int,
    "bytes_on_disk": int,
    "max_bytes": (int, type(None)),
    "damaged": list,
    "destinations": list,
}
RELAY = {"pid": int, "version": str, "started_at": float, "inline": bool}
DESTINATION = {
    "name": str,
    "active": bool,
    "state": str,
    "reason": str,
    "since": float,
    "pending": int,
    "oldest_age": (float, type(None)),
    "delivered": int,
    "dead": int,
    "discarded": int,
    "last_answer": str,
    "last_answer_at": (float, type(None)),
}


def fits(document: dict[str, Any], schema: dict[str, Any]) -> bool:
    return document.keys() == schema.keys() and all(
        isinstance(document[key], kind) for key, kind in schema.items()
    )


def configured(outbox: Path, legs: dict[str, Any], **keys: Any) -> str:
    return json.dumps(transport(outbox, legs, **keys))


def said(one: Process, status: int = 0) -> str:
    """What a command printed, once it has ended as expected."""
    assert one.end() == status, one.output
    return one.output


# Status


def test_status_of_an_outbox_that_isn_t_there_yet(keepline: Keepline, outbox: Path) -> None:
    settings = configured(outbox, {"a": leg("http://127.0.0.1:1")}, max_bytes=2e9)
    text = said(keepline("status", OPENLINEAGE__TRANSPORT=settings), status=1)
    assert text == f"Error: there is no outbox at {outbox} (from the configuration)\n"
    assert not outbox.exists()
    outbox.mkdir()
    assert said(keepline("status", OPENLINEAGE__TRANSPORT=settings)).splitlines() == [
        f"outbox  {outbox}  (0.0 MB of 2.0 GB)",
        "relay   not running",
        "no relay has delivered from this outbox yet",
    ]
    document = json.loads(said(keepline("status", "--json", OPENLINEAGE__TRANSPORT=settings)))
    assert document == {
        "outbox": str(outbox),
        "relay": None,
        "waiting": 0,
        "waiting_age": None,
        "commands": 0,
        "refused": 0,
        "bytes_on_disk": 0,
        "max_bytes": 2_000_000_000,
        "damaged": [],
        "destinations": [],
    }


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["flush"],
        ["stop"],
        ["trace", "x"],
        ["runs"],
        ["dead", "list"],
        ["dead", "show", "1@a"],
        ["dead", "replay", "--all"],
        ["dead", "discard", "--all"],
        ["replay", "--run", "x"],
        ["resume"],
        ["forget", "a"],
    ],
    ids=" ".join,
)
def test_an_outbox_that_is_named_and_isn_t_there_is_an_error(
    words: list[str], keepline: Keepline, outbox: Path
) -> None:
    text = said(keepline(*words, "--outbox", outbox), status=1)
    assert text == f"Error: there is no outbox at {outbox} (from `--outbox`)\n"
    assert not outbox.exists()


@pytest.mark.parametrize("words", [["status"], ["runs"], ["replay", "--run", "x"]], ids=" ".join)
def test_an_outbox_that_nobody_named_and_isn_t_there_is_an_error(
    words: list[str], keepline: Keepline, environment: Path
) -> None:
    text = said(keepline(*words), status=1)
    assert text == f"Error: there is no outbox at {environment / '.keepline'} (from the default)\n"
    variable = {"KEEPLINE_OUTBOX": str(environment / "variable")}
    text = said(keepline(*words, **variable), status=1)
    assert text == f"Error: there is no outbox at {environment / 'variable'} (from KEEPLINE_OUTBOX)\n"


def test_status_of_events_that_no_relay_has_seen(keepline: Keepline, outbox: Path) -> None:
    append(outbox, ["one", "two"])
    text = said(keepline("status", "--outbox", outbox))
    assert re.search(r"^journal 2 events not taken in yet, the oldest \d+ s old$", text, re.MULTILINE)
    document = json.loads(said(keepline("status", "--json", "--outbox", outbox)))
    assert document["waiting"] == 2
    assert 0 < document["waiting_age"] < 60


def test_status_tells_of_each_destination(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, other: RecordingDestination
) -> None:
    other.answer(503, body=b"[/bold] back [red]soon[/red] \x1b[2J" + b"x" * 500)
    destination.answer(400, times=1)
    emitting = client(outbox, {"trove": leg(destination), "a": leg(other)})
    for number in range(5):
        emitting.emit(run_event(str(number), run=number))
    until(lambda: bool(status(outbox).destinations) and status_of(outbox, "trove").delivered == 4)
    until(lambda: status_of(outbox, "a").state == "out")
    relay = relay_of(outbox)
    assert relay is not None
    document = json.loads(said(keepline("status", "--json", "--outbox", outbox)))
    assert fits(document, STATUS)
    assert fits(document["relay"], RELAY)
    assert document["relay"]["pid"] == relay.pid
    assert all(fits(one, DESTINATION) for one in document["destinations"])
    a, trove = document["destinations"]
    assert (a["name"], a["state"], a["pending"], a["delivered"], a["dead"]) == ("a", "out", 5, 0, 0)
    assert (trove["name"], trove["state"], trove["pending"]) == ("trove", "open", 0)
    assert (trove["delivered"], trove["dead"]) == (4, 1)
    text = said(keepline("status", "--outbox", outbox))
    assert f"relay   running, pid {relay.pid}, version {__version__}, for " in text
    assert re.search(r"^trove +open +0 +- +4 +1 +0 +HTTP 201 \(\d+ s ago\)", text, re.MULTILINE)
    assert re.search(r"^a +out +5 +\d+ s +0 +0 +0 +HTTP 503: \[/bold\] back", text, re.MULTILINE)
    assert "a has been out for " in text
    assert "1 dead letter: see `keepline dead list`" in text
    # What a destination says is shown as it is, and moves no cursor.
    assert "back [red]soon[/red] ?[2J" in text
    assert "\x1b" not in text


def test_status_tells_of_a_destination_that_is_configured_no_more(
    keepline: Keepline, outbox: Path, destination: RecordingDestination, deliver: Callable[..., Any]
) -> None:
    relay = deliver({"old": leg("http://127.0.0.1:1")})
    append(outbox, ["one"])
    until(lambda: bool(status(outbox).destinations) and status_of(outbox, "old").state == "out")
    relay.stop()
    deliver({"new": leg(destination)})
    text = said(keepline("status", "--outbox", outbox))
    assert re.search(r"^new +open +0 ", text, re.MULTILINE)
    assert re.search(r"^old +orphan +1 ", text, re.MULTILINE)
    assert (
        "old is out of the configuration: 1 pending and 0 dead wait until it is named there again, or for "
        "`keepline forget old`\n"
    ) in text
    document = json.loads(said(keepline("status", "--json", "--outbox", outbox)))
    assert [(one["name"], one["state"]) for one in document["destinations"]] == [
        ("new", "open"),
        ("old", "orphan"),
    ]
    document = json.loads(said(keepline("flush", "--json", "--outbox", outbox)))
    assert (document["settled"], document["waiting"]) == (True, 0)
    assert [(one["name"], one["state"], one["pending"]) for one in document["destinations"]] == [
        ("new", "open", 0),
        ("old", "orphan", 1),
    ]
    assert said(keepline("flush", "--outbox", outbox)) == (
        "everything is delivered or dead; "
        "1 for old wait until it is configured again (or `keepline forget`)\n"
    )


def test_status_tells_of_what_was_set_aside_as_damaged(keepline: Keepline, outbox: Path) -> None:
    append(outbox, ["one"])
    (outbox / "damaged").mkdir()
    (outbox / "damaged" / "ledger.db").write_bytes(b"?")
    assert f"damaged 1 file set aside in {outbox / 'damaged'}" in said(keepline("status", "--outbox", outbox))
    assert json.loads(said(keepline("status", "--json", "--outbox", outbox)))["damaged"] == ["ledger.db"]


def test_status_tells_of_a_relay_inside_a_program(
    keepline: Keepline, outbox: Path, destination: RecordingDestination
) -> None:
    with closing(client(outbox, {"a": leg(destination)}, relay="inline")) as emitting:
        emitting.emit(run_event("one"))
        relay = until(lambda: relay_of(outbox))
        assert relay is not None
        text = said(keepline("status", "--outbox", outbox))
        assert f"relay   running, inside a program that emits, pid {relay.pid}, " in text
        assert json.loads(said(keepline("status", "--json", "--outbox", outbox)))["relay"]["inline"]


def test_status_tells_of_appends_that_were_refused(keepline: Keepline, outbox: Path) -> None:
    emitting = client(outbox, {"a": leg("http://127.0.0.1:1")}, relay="external", lock_timeout=0.05)
    emitting.emit(run_event("one"))
    (segment,) = (outbox / "journal").iterdir()
    with segment.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Exception, match="can't lock"):
            emitting.emit(run_event("lost"))
    assert "refused 1 events could not be appended and are lost" in said(
        keepline("status", "--outbox", outbox)
    )


def test_status_of_a_relay_that_is_just_starting(keepline: Keepline, outbox: Path) -> None:
    lock = RelayLock.take(OutboxFiles(outbox))
    assert lock is not None
    assert "relay   starting" in said(keepline("status", "--outbox", outbox))
    lock.release()


def test_ages_are_short() -> None:
    seconds = (None, 0.4, 59.4, 60, 3599, 3600, 86399, 86400, 864000)
    assert [age(one) for one in seconds] == [
        "-", "0 s", "59 s", "1 min", "60 min", "1 h", "24 h", "1 d", "10 d",
    ]  # fmt: skip


# Stop


def test_stop_without_a_relay(keepline: Keepline, outbox: Path) -> None:
    outbox.mkdir()
    assert said(keepline("stop", "--outbox", outbox)) == "no relay was running\n"
    assert json.loads(said(keepline("stop", "--json", "--outbox", outbox))) == {"ended": None}


def test_stop_ends_the_relay_and_keeps_what_waits(
    keepline: Keepline, outbox: Path, destination: RecordingDestination
) -> None:
    destination.down()
    client(outbox, {"a": leg(destination)}).emit(run_event("one"))
    relay = until(lambda: relay_of(outbox))
    until(lambda: bool(status(outbox).destinations))
    assert said(keepline("stop", "--outbox", outbox)) == f"relay {relay.pid} has ended\n"
    assert relay_of(outbox) is None
    assert account(outbox) == {"delivered": 0, "dead": 0, "pending": 1}


def test_stop_waits_for_a_relay_that_is_just_starting(
    keepline: Keepline, outbox: Path, destination: RecordingDestination
) -> None:
    client(outbox, {"a": leg(destination)}).emit(run_event("one"))
    assert re.fullmatch(r"relay \d+ has ended\n", said(keepline("stop", "--outbox", outbox)))


def test_stop_gives_up_in_time_on_a_relay_that_is_stopped(
    keepline: Keepline, outbox: Path, destination: RecordingDestination
) -> None:
    client(outbox, {"a": leg(destination)}).emit(run_event("one"))
    relay = until(lambda: relay_of(outbox))
    kill(relay.pid, signal.SIGSTOP)
    began = time.monotonic()
    text = said(keepline("stop", "--timeout", "0.3", "--outbox", outbox), status=1)
    assert time.monotonic() - began < 10
    assert text == (f"Error: the relay (pid {relay.pid}) has not ended within 0.3 s; end it with kill -9\n")
    kill(relay.pid, signal.SIGCONT)
    until(lambda: relay_of(outbox) is None)


def test_stop_leaves_alone_what_has_the_relay_s_number_elsewhere(
    keepline: Keepline, outbox: Path, process: Callable[..., Process]
) -> None:
    lock = RelayLock.take(OutboxFiles(outbox))
    assert lock is not None
    bystander = process("print('ready', flush=True); input()")
    bystander.said("ready")
    info = {
        "pid": bystander.pid,
        "place": "another-host pid:[1]",
        "version": "1",
        "started_at": 1.0,
        "salt": "",
        "digest": "",
        "what a newer version tells": 1,
    }
    os.pwrite(lock.fd, json.dumps(info).encode().ljust(1024), 0)
    text = said(keepline("stop", "--outbox", outbox), status=1)
    assert text == (f"Error: the relay (pid {bystander.pid}) runs in another-host pid:[1]; stop it there\n")
    assert bystander.popen.poll() is None
    lock.release()


# Flush


def test_flush_of_an_outbox_that_isn_t_there_yet(keepline: Keepline, outbox: Path) -> None:
    settings = configured(outbox, {"a": leg("http://127.0.0.1:1")})
    assert (
        said(keepline("flush", OPENLINEAGE__TRANSPORT=settings))
        == f"nothing waits: there is no outbox at {outbox}\n"
    )
    assert not outbox.exists()


def test_flush_starts_a_relay_and_waits_until_everything_is_delivered(
    keepline: Keepline, outbox: Path, destination: RecordingDestination
) -> None:
    destination.answer(201, delay=0.02)
    names = append(outbox, map(str, range(50)))
    settings = configured(outbox, {"a": leg(destination)})
    assert said(keepline("flush", OPENLINEAGE__TRANSPORT=settings)) == "everything is delivered or dead\n"
    assert all_once(destination, names)
    assert relay_of(outbox) is not None
    assert said(keepline("flush", OPENLINEAGE__TRANSPORT=settings)) == "everything is delivered or dead\n"


def test_flush_gives_up_in_time_and_says_what_is_left(
    keepline: Keepline, outbox: Path, destination: RecordingDestination
) -> None:
    destination.down()
    append(outbox, ["one", "two"])
    settings = configured(outbox, {"a": leg(destination)}, backoff_max=0.05)
    text = said(keepline("flush", "--timeout", "1.5", OPENLINEAGE__TRANSPORT=settings), status=3)
    first, last = text.splitlines()
    assert first.startswith("a: 2 pending, out: Failed to connect")
    assert last == "not everything is delivered after 1.5 s; it stays in the outbox"


def test_flush_waits_for_an_external_relay_and_starts_none(
    keepline: Keepline, outbox: Path, destination: RecordingDestination
) -> None:
    names = append(outbox, ["one"])
    settings = configured(outbox, {"a": leg(destination)}, relay="external")
    text = said(keepline("flush", "--timeout", "0.1", OPENLINEAGE__TRANSPORT=settings), status=3)
    assert text.splitlines() == [
        "1 events wait for a relay to take them in; no relay runs",
        "not everything is delivered after 0.1 s; it stays in the outbox",
    ]
    waiting = keepline("flush", OPENLINEAGE__TRANSPORT=settings)
    keepline("relay", OPENLINEAGE__TRANSPORT=settings)
    assert said(waiting) == "everything is delivered or dead\n"
    assert all_once(destination, names)


def test_flush_repairs_a_damaged_ledger_and_waits_for_what_it_held(
    keepline: Keepline, outbox: Path, destination: RecordingDestination
) -> None:
    names = append(outbox, ["one"])
    (outbox / "ledger.db").write_bytes(b"no ledger" * 1000)
    settings = configured(outbox, {"a": leg(destination)})
    assert said(keepline("flush", OPENLINEAGE__TRANSPORT=settings)) == "everything is delivered or dead\n"
    assert all_once(destination, names)


def test_flush_of_a_damaged_ledger_that_nobody_repairs_is_an_error(keepline: Keepline, outbox: Path) -> None:
    append(outbox, ["one"])
    (outbox / "ledger.db").write_bytes(b"no ledger" * 1000)
    text = said(keepline("flush", "--timeout", "30", "--outbox", outbox), status=1)
    assert text.startswith("Error: can't read the ledger ")


@pytest.mark.parametrize("by", ["configuration", "option"])
def test_flush_warns_once_of_a_setting_that_is_not_known(
    by: str, keepline: Keepline, outbox: Path, destination: RecordingDestination
) -> None:
    append(outbox, ["one"])
    settings = configured(outbox, {"a": leg(destination)}, colour="red")
    words = ["--outbox", str(outbox)] if by == "option" else []
    text = said(keepline("flush", *words, OPENLINEAGE__TRANSPORT=settings))
    assert text.count("keepline setting `colour` is not known") == 1


def test_flush_with_a_wrong_leg_says_so_at_once(keepline: Keepline, outbox: Path) -> None:
    append(outbox, ["one"])
    settings = configured(outbox, {"a": {"type": "htp"}})
    assert said(keepline("flush", OPENLINEAGE__TRANSPORT=settings), status=1) == (
        "Error: transports.a: `type` is 'htp', which is no transport of the client's; name one, such as "
        "`http`, or a class in full\n"
    )


# Relay


def test_relay_delivers_in_the_foreground_and_a_second_one_is_refused(
    keepline: Keepline, outbox: Path, destination: RecordingDestination
) -> None:
    settings = configured(outbox, {"a": leg(destination)}, relay="external")
    running = keepline("relay", OPENLINEAGE__TRANSPORT=settings)
    until(lambda: f"delivering from {outbox} to a\n" in running.output)
    text = said(keepline("relay", OPENLINEAGE__TRANSPORT=settings), status=1)
    assert text == (
        f"Error: a relay already delivers from {outbox} (pid {running.pid}); end it with `keepline stop`\n"
    )
    arrive_once(destination, append(outbox, ["one"]))
    running.signal(signal.SIGINT)
    delivering, ending = said(running).splitlines()
    assert delivering == f"delivering from {outbox} to a"
    assert ending.endswith("the relay has been told to end")


def test_relay_ends_when_idle_if_it_may(
    keepline: Keepline, outbox: Path, destination: RecordingDestination
) -> None:
    names = append(outbox, ["one"])
    settings = configured(outbox, {"a": leg(destination)}, relay_idle=0.1)
    assert "nothing left to deliver" in said(
        keepline("relay", "--exit-when-idle", OPENLINEAGE__TRANSPORT=settings)
    )
    assert all_once(destination, names)
    assert settled(outbox)


def test_relay_without_a_configuration_says_what_is_missing(keepline: Keepline) -> None:
    text = said(keepline("relay"), status=1)
    assert text.startswith("Error: keepline setting `transport` is None; expected an OpenLineage transport")
    assert text.count("\n") == 1


def test_relay_with_a_wrong_leg_says_what_the_client_says(keepline: Keepline, outbox: Path) -> None:
    text = said(
        keepline("relay", OPENLINEAGE__TRANSPORT=configured(outbox, {"a": {"type": "http"}})), status=1
    )
    assert text == "Error: transports.a: RuntimeError: `url` key not passed to HttpConfig\n"


def test_relay_with_a_transport_that_can_t_be_imported_says_so_once(keepline: Keepline, outbox: Path) -> None:
    settings = configured(outbox, {"a": {"type": "nowhere.Transport"}})
    assert said(keepline("relay", OPENLINEAGE__TRANSPORT=settings), status=1) == (
        "Error: transports.a: ImportError: Failed to import nowhere.Transport (No module named 'nowhere')\n"
    )


def test_relay_logs_its_own_details_alone(
    keepline: Keepline, outbox: Path, destination: RecordingDestination
) -> None:
    append(outbox, ["one"])
    settings = configured(outbox, {"a": leg(destination)}, relay_idle=0.1)
    text = said(keepline("relay", "-v", "--exit-when-idle", OPENLINEAGE__TRANSPORT=settings))
    assert not re.search(r" DEBUG (?!keepline)", text)


def test_relay_that_is_left_by_a_transport_s_threads_ends_all_the_same(
    keepline: Keepline, outbox: Path, environment: Path
) -> None:
    (environment / "stubborn.py").write_text(
        "import threading\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from openlineage.client.transport.transport import Transport\n"
        "class Stubborn(Transport):\n"
        "    def __init__(self, config):\n"
        "        ThreadPoolExecutor(thread_name_prefix='mule').submit(threading.Event().wait)\n"
        "    def emit(self, event): pass\n"
    )
    append(outbox, ["one"])
    legs = {"a": {"type": "stubborn.Stubborn"}}
    settings = configured(outbox, legs, relay_idle=0.1, stop_timeout=0.2)
    ended = keepline("relay", "--exit-when-idle", OPENLINEAGE__TRANSPORT=settings)
    assert re.search("ends without waiting for the threads .*mule", said(ended))
    assert settled(outbox)


# Which outbox


def test_the_outbox_is_the_option_s_else_the_variable_s_else_the_configuration_s_else_the_default(
    keepline: Keepline, environment: Path, tmp_path: Path
) -> None:
    (environment / "openlineage.yml").write_text(
        yaml.safe_dump({"transport": transport(tmp_path / "configured", {"a": leg("http://127.0.0.1:1")})})
    )

    def shown(*words: object, **env: str) -> Path:
        return Path(json.loads(said(keepline("status", "--json", *words, **env)))["outbox"])

    variable = {"KEEPLINE_OUTBOX": str(tmp_path / "variable")}
    for folder in (tmp_path / "option", tmp_path / "variable", tmp_path / "configured"):
        folder.mkdir()
    (environment / ".keepline").mkdir()
    (tmp_path / "airflow" / "keepline").mkdir(parents=True)
    assert shown("--outbox", tmp_path / "option", **variable) == tmp_path / "option"
    assert shown(**variable) == tmp_path / "variable"
    assert shown() == tmp_path / "configured"
    (environment / "openlineage.yml").unlink()
    assert shown() == environment / ".keepline"
    assert shown(AIRFLOW_HOME=str(tmp_path / "airflow")) == tmp_path / "airflow" / "keepline"


@pytest.mark.parametrize("by", ["option", "variable"])
def test_relay_and_flush_take_the_outbox_in_the_same_order(
    by: str, keepline: Keepline, outbox: Path, destination: RecordingDestination, tmp_path: Path
) -> None:
    names = append(outbox, ["one"])
    settings = configured(tmp_path / "configured", {"a": leg(destination)})
    words = ["--outbox", str(outbox)] if by == "option" else []
    env = {"OPENLINEAGE__TRANSPORT": settings}
    if by == "variable":
        env["KEEPLINE_OUTBOX"] = str(outbox)
    assert said(keepline("flush", *words, **env)) == "everything is delivered or dead\n"
    assert all_once(destination, names)
    assert said(keepline("stop", *words, **env)).endswith("has ended\n")
    running = keepline("relay", *words, **env)
    until(lambda: f"delivering from {outbox} to a\n" in running.output)
    assert not (tmp_path / "configured").exists()


# Errors


@pytest.mark.parametrize("command", ["status", "flush", "stop", "relay"])
@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"KEEPLINE_OUTBOX": "postgresql://me:pw@host/db"}, "Error: keepline setting `outbox` is"),
        (
            {"OPENLINEAGE__TRANSPORT": '{"type": "keepline.Transport", "relay": "x"}'},
            "Error: keepline setting `relay` is 'x'",
        ),
        ({"OPENLINEAGE__FACETS": '{"unknown": 1}'}, "Error: ValueError: Failed to parse OpenLineage config"),
    ],
    ids=["outbox", "setting", "client"],
)
def test_an_error_is_one_line_and_exit_status_1(
    command: str, env: dict[str, str], text: str, keepline: Keepline
) -> None:
    if command == "relay" and "KEEPLINE_OUTBOX" in env:
        env = {**env, "OPENLINEAGE__TRANSPORT": configured(Path("/x"), {"a": leg("http://127.0.0.1:1")})}
    output = said(keepline(command, **env), status=1)
    assert output.startswith(text)
    assert output.count("\n") == 1
    assert "pw" not in output


@pytest.mark.parametrize("command", ["status", "relay", "flush"])
def test_a_configuration_that_can_t_be_read_is_an_error(
    command: str, keepline: Keepline, environment: Path
) -> None:
    (environment / "openlineage.yml").write_text("transport: {type: keepline.Transport, [\n")
    text = said(keepline(command), status=1)
    assert text.startswith("Error: Couldn't read content of the OpenLineage config file `")
    assert "openlineage.yml" in text
    assert text.count("\n") == 1
    assert ("; `--outbox FOLDER` does without the configuration" in text) == (command == "status")


def test_an_outbox_that_is_a_file_is_an_error(keepline: Keepline, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = said(keepline("status", "--outbox", tmp_path / "file"), status=1)
    assert text.startswith("Error: can't read ")
    assert text.count("\n") == 1


def test_an_unknown_option_is_click_s_business(keepline: Keepline) -> None:
    assert "No such option" in said(keepline("status", "--nothing"), status=2)


def test_each_command_says_what_it_is_for(keepline: Keepline) -> None:
    text = said(keepline("--help"))
    for command in (
        "dead", "demo", "flush", "forget", "relay", "replay", "resume", "runs", "status", "stop", "trace",
    ):  # fmt: skip
        assert re.search(rf"^  {command} +\w", text, re.MULTILINE)
    assert not re.search(r"\w\.\.\.$", text, re.MULTILINE)
    assert said(keepline("--version")) == f"keepline, version {__version__}\n"
