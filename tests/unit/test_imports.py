"""Who may import whom, and what an emitting process imports."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import keepline

ROOT = Path(keepline.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

CORE = frozenset(
    {"apart", "config", "discovery", "errors", "event", "outbox", "pool", "revive", "serialise", "tuning"}
)
"""Rooms that know nothing of who uses them."""
RELAY = CORE | {"destinations", "relay"}
"""Rooms that deliver, and what they may see."""
EMISSION = RELAY | {"emission", "transport"}

ALLOWED = {
    **dict.fromkeys(CORE, CORE),
    "destinations": CORE | {"destinations"},
    "relay": RELAY,
    "emission": RELAY,
    "transport": EMISSION,
    # Somebody's command or Airflow process: may see whatever is inside of them.
    "airflow": EMISSION | {"airflow"},
    "cli": EMISSION | {"airflow", "cli", "demo"},
    "demo": EMISSION | {"demo"},
}

# Names that a room imports from Airflow: that room alone, and one script that Airflow's interpreter runs.
OF_AIRFLOW = ("airflow/", "demo/airflow_runs.py")

DRIVERS = frozenset({"kafka", "confluent_kafka", "psycopg", "psycopg2", "sqlalchemy", "boto3", "google"})


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[str]:
    """Each module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            if node.module == "keepline":
                yield from (f"keepline.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def rooms_seen_by(path: Path) -> set[str]:
    seen = {name.split(".")[1] for name in imports_of(path) if name.startswith("keepline.")}
    return {room for room in seen if (ROOT / room).is_dir() or (ROOT / f"{room}.py").is_file()}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_inward(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert rooms_seen_by(path) <= {"transport"}  # when somebody asks for it
        return
    assert rooms_seen_by(path) <= ALLOWED[room] | {room}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_airflow_room_imports_airflow(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    if not name.startswith(OF_AIRFLOW):
        assert "airflow" not in {module.split(".")[0] for module in imports_of(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_imports_the_driver_of_an_optional_store(path: Path) -> None:
    # Airflow's own database is Airflow's to open.
    drivers = DRIVERS - {"sqlalchemy"} if room_of(path) == "airflow" else DRIVERS
    assert not drivers & {module.split(".")[0] for module in imports_of(path)}


def test_the_commands_import_the_airflow_room_only_when_they_need_it() -> None:
    for path in MODULES:
        if room_of(path) == "cli":
            tree = ast.parse(path.read_text())
            at_once = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
            assert not any((module or "").startswith("keepline.airflow") for module in at_once)


def modules_after(code: str) -> set[str]:
    printed = subprocess.run(
        [sys.executable, "-c", f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(json.loads(printed.stdout))


@pytest.mark.timeout(60)
def test_an_emitting_process_imports_little_beside_the_client() -> None:
    client = modules_after("import openlineage.client")
    added = modules_after("import openlineage.client, keepline.transport") - client
    foreign = {name for name in added if not name.startswith("keepline")}
    checksums = {"isal", "isal._isal", "isal._version", "isal.igzip_lib", "isal.isal_zlib"}
    assert foreign <= {"orjson", "orjson.orjson", "secrets"} | checksums
    # What delivers stays out of it: SQLite, libcurl, the relay's engine.
    assert not {"keepline.relay.relay", "keepline.outbox.ledger", "keepline.destinations.http"} & added


@pytest.mark.timeout(60)
def test_the_core_loads_no_client_no_airflow_and_no_driver() -> None:
    loaded = modules_after("import keepline.config, keepline.outbox.journal, keepline.relay.watch")
    tops = {name.split(".")[0] for name in loaded}
    assert not tops & ({"airflow", "openlineage", "rich", "click", "pycurl", "apsw", "asyncio"} | DRIVERS)
