"""The benchmarks run, deliver everything, and write what can be read; figures are for `make bench`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"
QUICK_SECONDS = 240


def run(*words: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=QUICK_SECONDS,
    )


@pytest.fixture(scope="module")
def into(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a quick run of all benchmarks has written."""
    folder = tmp_path_factory.mktemp("results")
    done = run(BENCH / "run.py", "--quick", "--into", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def results(into: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((into / "results.json").read_text())
    return found


@pytest.fixture
def nginx(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCH))
    import nginx as module

    with module.Nginx() as one:
        yield one


def test_every_benchmark_says_what_it_measured(results: dict[str, Any]) -> None:
    assert set(results) == {
        "backlog", "contention", "delivery", "emit", "idle", "machine", "quick", "serialise",
    }  # fmt: skip


def test_delivery_compares_the_relay_with_each_transport_of_the_client(results: dict[str, Any]) -> None:
    delivery = results["delivery"]
    ours, *peers = delivery["figures"]
    assert ours == "keepline relay"
    assert (
        peers == list(delivery["ratios"]) == ["client http", "client http, given JSON", "client async_http"]
    )
    for row in delivery["figures"].values():
        assert all(value["least"] <= value["median"] <= value["most"] for value in row.values())
        # How many there were at once is looked for now and then, and may be missed in so short a time.
        assert row["connections opened"]["least"] >= 1
    relay, http = (delivery["figures"][name]["events a second"]["median"] for name in (ours, peers[0]))
    assert delivery["ratios"]["client http"]["events a second"]["median"] == pytest.approx(
        relay / http, abs=0.06
    )


def test_a_backlog_waits_and_some_of_it_is_delivered_at_the_end(results: dict[str, Any]) -> None:
    backlog = results["backlog"]
    assert [step["waiting"] for step in backlog["steps"]] == [1, backlog["events"]]
    assert backlog["drain"]["events a second"] > 0


def test_emits_beside_a_relay_have_all_been_delivered(results: dict[str, Any]) -> None:
    emit = results["emit"]
    for one in (*emit["side by side"].values(), emit["at once"]["paced, relay: auto"]):
        assert one["delivered"] == one["appended"] > 0


def test_idle_processes_of_keepline_and_its_peers_are_seen(results: dict[str, Any]) -> None:
    rows = results["idle"]["processes"]
    assert len(rows) == 5
    assert rows["keepline: the emitting process"]["connections"] == 0
    assert rows["keepline: its relay"]["connections"] > 0
    assert rows["async_http, one client"]["threads"] > 1


def test_contention_is_measured_for_1_4_and_16_processes(results: dict[str, Any]) -> None:
    for sizes in results["contention"]["appending"].values():
        assert list(sizes) == ["1", "4", "16"]
        assert all(one[kind]["worst"] > 0 for one in sizes.values() for kind in ("keepline", "SQLite"))


def test_the_page_tells_what_is_promised_and_nothing_of_whose_machine_it_is(into: Path) -> None:
    text = (into / "RESULTS.md").read_text()
    machine = json.loads((into / "results.json").read_text())["machine"]
    assert socket.gethostname() not in " ".join(machine.values()).split()
    assert "A quick run: these figures mean nothing" in text
    assert "## What is promised" in text
    everything = text + (into / "results.json").read_text() + (into / "results.svg").read_text()
    assert not [path for path in (str(Path.home()), str(BENCH), str(into)) if path in everything]


def test_the_chart_is_well_formed_and_has_a_bar_for_each_in_both_halves(into: Path) -> None:
    root = ET.parse(into / "results.svg").getroot()
    bars = [
        one for one in root.iter("{http://www.w3.org/2000/svg}rect") if one.get("class") in ("ours", "peer")
    ]
    assert len(bars) == 8
    right = [float(one.attrib["x"]) + float(one.attrib["width"]) for one in bars]
    assert max(right) < float(root.attrib["width"])


def test_nginx_answers_only_when_it_has_the_whole_body(nginx: Any) -> None:
    port = int(nginx.url.rpartition(":")[2])
    before = nginx.look()
    with socket.create_connection(("127.0.0.1", port)) as one:
        one.sendall(
            b"POST /api/v1/lineage HTTP/1.1\r\nHost: here\r\nContent-Length: 4000\r\n\r\n" + b"x" * 3999
        )
        one.settimeout(0.2)
        with pytest.raises(TimeoutError):
            one.recv(1)
        one.settimeout(30)
        one.sendall(b"x")
        assert one.recv(1000).startswith(b"HTTP/1.1 201 ")
        after = nginx.look()
    assert (after.requests - before.requests, after.opened - before.opened) == (1, 1)
    assert after.active == before.active + 1


def test_a_missing_nginx_is_named_with_its_package(tmp_path: Path) -> None:
    code = "import nginx, shutil; shutil.which = lambda *_, **__: None; nginx.program()"
    done = run("-c", code, PYTHONPATH=f"{BENCH}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("apt-get install nginx-light")


def test_setting_nginx_up_without_being_root_names_the_package_and_fails() -> None:
    code = (
        "import have, os, sys; have.have = lambda server: False; os.geteuid = lambda: 1000; "
        "sys.exit(have.main(['nginx']))"
    )
    done = run("-c", code, PYTHONPATH=str(BENCH.parent / "tools"))
    assert done.returncode == 1
    assert done.stderr.strip().endswith("apt-get install nginx-light")


def test_a_benchmark_that_has_not_delivered_everything_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    import delivery

    nothing: Any = SimpleNamespace(destinations=())
    with pytest.raises(SystemExit, match="nginx has had 10, the ledger says 0 delivered"):
        delivery.check(nothing, 10, 10)
