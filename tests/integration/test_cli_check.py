"""``keepline check``, as a probe runs it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.support_cli import Keepline, configured, document, emit, said, wait_settled
from tests.support_relay import SOON, append, client, leg, run_event, status_of, until

from keepline.demo.destination import RecordingDestination
from keepline.errors import KeeplineError
from keepline.outbox.files import OutboxFiles

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

Deliver = Callable[..., Any]

FINDING = {"name": str, "ok": bool, "value": object, "limit": object, "said": str}


@pytest.fixture
def check(keepline: Keepline, outbox: Path) -> Callable[..., str]:
    """Runs the command on the outbox; gives its one line, once it has ended as expected."""

    def run(*words: object, status: int = 0) -> str:
        text = said(keepline("check", "--outbox", outbox, *words), status=status)
        assert text.endswith("\n")
        assert text.count("\n") == 1
        return text[:-1]

    return run


Check = Callable[..., str]


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Each file beneath a folder, with its content and when it was changed.

    Not the two that SQLite makes for whoever reads while no relay runs: nothing is written to them.
    """
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mtime_ns if path.is_file() else 0,
        )
        for path in folder.rglob("*")
        if path.name not in ("ledger.db-wal", "ledger.db-shm")
    }


def nobody_reads(fifo: Path) -> bool:
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno == errno.ENXIO
    return False


# Healthy


def test_all_is_well_while_everything_is_delivered(
    check: Check, outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    deliver({"a": leg(destination)})
    append(outbox, ["one", "two"])
    wait_settled(outbox)
    assert check().startswith(f"OK: 0 waiting; relay {os.getpid()}; ")
    assert check("--relay").startswith("OK: ")


def test_an_outbox_that_nothing_was_written_to_yet_is_well_unless_it_is_named(
    keepline: Keepline, outbox: Path
) -> None:
    settings = configured(outbox, {"a": leg("http://127.0.0.1:1")})
    assert said(keepline("check", OPENLINEAGE__TRANSPORT=settings)).startswith("OK: 0 waiting; no relay; ")
    assert said(keepline("check", KEEPLINE_OUTBOX=str(outbox))).startswith("OK: ")
    text = said(keepline("check", "--outbox", outbox), status=2)
    assert text == f"UNKNOWN: there is no outbox at {outbox} (from `--outbox`)\n"
    assert not outbox.exists()


def test_a_look_changes_nothing(
    check: Check, outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    relay = deliver({"a": leg(destination)})
    append(outbox, ["one"])
    wait_settled(outbox)
    relay.stop()
    append(outbox, ["two"])
    before = contents(outbox)
    check("--only", "pending")
    assert contents(outbox) == before
    assert not (outbox / "ledger.db-wal").stat().st_size


def test_a_probe_that_is_given_its_outbox_loads_neither_client_nor_airflow(
    process: Callable[..., Any], outbox: Path
) -> None:
    append(outbox, ["one"])
    code = """
import sys
from keepline.cli import main
try:
    main(["check", "--outbox", sys.argv[1], "--only", "pending"])
except SystemExit as end:
    loaded = {name.split(".")[0] for name in sys.modules}
    print(end.code, sorted(loaded & {"openlineage", "airflow", "pycurl"}))
"""
    assert said(process(code, outbox)).splitlines()[-1] == "0 []"


# Unhealthy


def test_a_relay_has_to_run_where_one_is_asked_for(check: Check, outbox: Path) -> None:
    outbox.mkdir()
    assert check("--relay", status=1) == "UNHEALTHY: no relay runs"
    assert check("--relay", "--ignore", "relay").startswith("OK: ")


def test_what_has_waited_too_long_or_is_too_much_is_told(
    check: Check, outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: now - 2 * 3600 * 10**9)
        append(outbox, ["one", "two", "three"])
    assert check("--max-pending", 2, status=1) == (
        "UNHEALTHY: no relay runs, and 3 wait; the oldest event has waited for 2 h (limit 15 min); "
        "3 deliveries wait (limit 2)"
    )
    assert check("--max-age", 9000, "--ignore", "relay").startswith("OK: 3 waiting, the oldest for 2 h; ")
    assert check("--only", "age", status=1).startswith("UNHEALTHY: the oldest event")


def test_a_destination_that_is_paused_is_told(
    check: Check, outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    destination.answer(401, body=b"who are\nyou?")
    deliver({"a": leg(destination)})
    append(outbox, ["one"])
    until(lambda: status_of(outbox, "a").state == "paused")
    text = check(status=1)
    assert text.startswith("UNHEALTHY: a has been paused for ")
    assert "401" in text


def test_a_dead_letter_is_told_while_it_is_new(
    check: Check, outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    destination.answer(422, times=2)
    deliver({"a": leg(destination)}, max_connections=1)
    emit(outbox, "1:START", "2:START", "3:START")
    until(lambda: status_of(outbox, "a").dead == 2)
    wait_settled(outbox)
    assert check(status=1) == "UNHEALTHY: 2 dead letters within 1 h (limit 0)"
    assert check("--max-dead", 2).startswith("OK: ")
    assert check("--since", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))).startswith(
        "OK: "
    )


def test_a_refused_event_is_told_while_it_is_new(
    check: Check, outbox: Path, destination: RecordingDestination
) -> None:
    emitting = client(outbox, {"a": leg(destination)}, relay="external", max_event_bytes=100)
    with pytest.raises(KeeplineError):
        emitting.emit(run_event("large"))
    assert check(status=1).startswith("UNHEALTHY: events are lost: 1 refused in all, the last ")
    old = time.time() - 7200
    os.utime(OutboxFiles(outbox).refused, (old, old))
    assert check().startswith("OK: ")
    assert check("--since", "3h", status=1).startswith("UNHEALTHY: events are lost: ")


def test_a_disk_with_little_room_is_told(check: Check, outbox: Path) -> None:
    outbox.mkdir()
    assert check("--min-free", 10**12, status=1).startswith("UNHEALTHY: only ")
    assert check("--min-free", 0).startswith("OK: ")


def test_what_was_set_aside_is_told(check: Check, outbox: Path) -> None:
    damaged = OutboxFiles(outbox).damaged
    damaged.mkdir(parents=True)
    (damaged / "ledger.db-1").write_text("x")
    assert check(status=1) == f"UNHEALTHY: 1 damaged file set aside in {damaged}"


def test_a_document_for_programs(keepline: Keepline, outbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: now + 3600 * 10**9)  # by a clock that is fast: it is never old
        append(outbox, ["one"])
    words = ("check", "--outbox", outbox, "--json")
    found = document(keepline(*words))
    assert found.keys() == {"healthy", "outbox", "pending", "oldest_age", "checks"}
    assert (found["healthy"], found["outbox"], found["pending"]) == (True, str(outbox), 1)
    names = [one["name"] for one in found["checks"]]
    assert names == ["relay", "refused", "disk", "damaged", "paused", "dead", "age", "pending"]
    for one in found["checks"]:
        assert one.keys() == FINDING.keys()
        assert all(isinstance(one[key], kind) for key, kind in FINDING.items())
    unwell = document(keepline(*words, "--max-pending", 0, "--only", "pending"), status=1)
    assert unwell["healthy"] is False
    assert unwell["checks"] == [
        {"name": "pending", "ok": False, "value": 1, "limit": 0, "said": "1 deliveries wait (limit 0)"}
    ]
    unknown = document(keepline("check", "--outbox", outbox / "none", "--json"), status=2)
    assert unknown["healthy"] is None
    assert "no outbox" in unknown["error"]


# Unknown


def test_wrong_usage_is_no_answer(keepline: Keepline, outbox: Path) -> None:
    for words in (
        ["--only", "weather"],
        ["--only", "age", "--ignore", "age"],
        ["--since", "soon"],
        ["--max-age", -1],
    ):
        assert keepline("check", "--outbox", outbox, *words).end() == 2


def test_a_configuration_that_can_t_be_read_is_no_answer(keepline: Keepline, outbox: Path) -> None:
    settings = configured(outbox, {"a": leg("http://127.0.0.1:1")}, relay="sometimes")
    text = said(keepline("check", OPENLINEAGE__TRANSPORT=settings), status=2)
    assert text.startswith("UNKNOWN: keepline setting `relay` is 'sometimes'")


def test_a_ledger_that_is_none_is_no_answer(check: Check, outbox: Path) -> None:
    append(outbox, ["one"])
    OutboxFiles(outbox).ledger.write_bytes(b"nothing of the kind" * 100)
    assert check(status=2).startswith(f"UNKNOWN: can't read the ledger {outbox}")


def test_a_ledger_that_another_process_holds_is_no_answer(
    check: Check, outbox: Path, destination: RecordingDestination, deliver: Deliver
) -> None:
    relay = deliver({"a": leg(destination)})
    append(outbox, ["one"])
    wait_settled(outbox)
    relay.stop()
    holder = apsw.Connection(str(OutboxFiles(outbox).ledger))
    try:
        holder.pragma("locking_mode", "exclusive")
        holder.execute("BEGIN EXCLUSIVE; UPDATE destination SET delivered = delivered")
        assert "another process holds it" in check(status=2)
    finally:
        holder.close()


def test_a_disk_that_does_not_answer_is_no_answer_and_holds_nobody_up(check: Check, outbox: Path) -> None:
    # An open(2) that waits for ever, as on a mount whose server is gone.
    append(outbox, ["one"])
    refused = OutboxFiles(outbox).refused
    refused.unlink(missing_ok=True)
    os.mkfifo(refused)
    began = time.monotonic()
    assert check("--timeout", 0.5, status=2) == "UNKNOWN: no answer within 0.5 s"
    assert time.monotonic() - began < SOON
    until(lambda: nobody_reads(refused))  # nor is the child that waited still there


def test_an_error_is_a_document_too(keepline: Keepline, outbox: Path) -> None:
    append(outbox, ["one"])
    OutboxFiles(outbox).ledger.write_bytes(b"nothing of the kind" * 100)
    found = json.loads(said(keepline("check", "--outbox", outbox, "--json"), status=2))
    assert found["healthy"] is None
