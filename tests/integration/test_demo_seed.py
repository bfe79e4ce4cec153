from __future__ import annotations

import io
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from keepline.demo import seed
from keepline.demo.processes import cpu_seconds
from keepline.demo.seed_process import SeedProcess
from keepline.errors import KeeplineError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed, "STEPS", (0, 2, 5))
    monkeypatch.setattr(seed, "IDLE_SECONDS", 0.05)


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = psutil.Process().children()
    yield
    assert list(tmp_path.iterdir()) == []
    assert [child for child in psutil.Process().children() if child not in before] == []
    commands = [one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"])]
    assert [command for command in commands if any(str(tmp_path) in word for word in command)] == []


def run(*, as_json: bool) -> tuple[int, str]:
    out = io.StringIO()
    result = seed.run_seed(Console(file=out, width=140), as_json=as_json)
    return result, out.getvalue()


def test_a_client_for_each_event_adds_up_and_keepline_does_not():
    result, text = run(as_json=True)
    assert result == 0
    processes = json.loads(text)["processes"]
    *clients, emitting, relay = processes

    assert all(process["cut_short"] is None for process in processes)
    for process in clients:
        assert [row["clients"] for row in process["rows"]] == [0, 2, 5]
        assert [row["connections"] for row in process["rows"]] == [0, 4, 10]
    assert [row["threads"] for row in clients[-1]["rows"]] == [1, 3, 6]
    assert [row["events"] for row in emitting["rows"]] == [0, 2, 5]
    assert [row["clients"] for row in emitting["rows"]] == [1, 1, 1]
    assert [row["connections"] for row in emitting["rows"]] == [0, 0, 0]
    assert [row["threads"] for row in emitting["rows"]] == [1, 1, 1]
    assert [row["events"] for row in relay["rows"]] == [2, 5]
    assert all(2 <= row["connections"] <= 8 for row in relay["rows"])


def test_people_see_a_table_with_a_line_for_each_measurement():
    result, text = run(as_json=False)
    assert result == 0
    assert "a client for each event" in text
    assert "keepline, one client" in text
    assert "idle CPU %" in text
    assert "cut short" not in text


def test_the_users_own_configuration_and_proxies_do_not_reach_the_processes(monkeypatch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    (folder / "openlineage.yml").write_text("transport: {type: console}\n")
    monkeypatch.setenv("OPENLINEAGE_CONFIG", str(folder / "openlineage.yml"))
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TRANSPORTS__MORE", '{"type": "nonsense"}')
    monkeypatch.setenv("KEEPLINE_OUTBOX", str(folder))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    result, text = run(as_json=True)
    assert (result, "cut short" in text) == (0, False)


def test_a_process_that_dies_is_told_with_its_reason_and_the_others_are_measured(monkeypatch):
    def die_once(pid):
        monkeypatch.setattr(seed, "cpu_seconds", cpu_seconds)
        os.kill(pid, signal.SIGKILL)
        return 0.0

    monkeypatch.setattr(seed, "cpu_seconds", die_once)
    result, text = run(as_json=True)
    first, *others = json.loads(text)["processes"]

    assert result == 1
    assert first["cut_short"] == "it has ended with status -9"
    assert [one["cut_short"] for one in others] == [None] * len(others)


def test_a_client_that_fails_is_told_with_its_error(monkeypatch):
    monkeypatch.setattr(seed._Stage, "transports", lambda stage, datadog: {"broken": {"type": "nonsense"}})
    result, text = run(as_json=False)
    assert result == 1
    assert "cut short, it has ended with status 1 ImportError: Failed to import nonsense" in text


def test_time_that_is_up_cuts_short(monkeypatch):
    monkeypatch.setattr(seed, "CLIENTS_SECONDS", 0.0)
    monkeypatch.setattr(seed, "KEEPLINE_SECONDS", 0.0)
    result, text = run(as_json=True)
    assert result == 1
    assert {one["cut_short"] for one in json.loads(text)["processes"]} == {
        "it hasn't emitted 0 events within 0 s",
        None,
    }


@pytest.mark.parametrize("client_per_event", [True, False])
@pytest.mark.parametrize("step", range(3))
def test_ctrl_c_leaves_nothing_behind(monkeypatch, client_per_event, step):
    calls: list[SeedProcess] = []

    def interrupted(process, seconds):
        if process._order["client_per_event"] is client_per_event:
            calls.append(process)
            if len(calls) > step:
                raise KeyboardInterrupt

    monkeypatch.setattr(SeedProcess, "stay_idle", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(as_json=True)


def test_a_system_other_than_linux_is_told_so(monkeypatch):
    monkeypatch.setattr(seed.sys, "platform", "darwin")
    with pytest.raises(KeeplineError, match="only Linux lets it"):
        run(as_json=False)
