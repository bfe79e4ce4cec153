from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.integration.airflow_support import KEEPLINE, Airflow, airflow

from keepline import __version__

__all__ = ["airflow"]

OURS = "keepline.airflow.listener.KeeplineListener"
THEIRS = "airflow.providers.openlineage.plugins.listener.OpenLineageListener"


@pytest.fixture(autouse=True)
def transport(airflow: Airflow) -> None:
    airflow.transport({"type": KEEPLINE, "transports": {"a": {"type": "http", "url": "http://127.0.0.1:9"}}})


def load_first(airflow: Airflow, distribution: str, folder: Path) -> dict[str, str]:
    """Have the plugins of a distribution found before all others: its metadata, earlier on the path."""
    site = airflow.python.parent.parent.glob("lib/python*/site-packages")
    (info,) = next(site).glob(f"{distribution}-*.dist-info")
    shutil.copytree(info, folder / info.name)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("first", ["keepline", "apache_airflow_providers_openlineage"])
def test_one_listener_is_everywhere_whichever_plugin_loads_first(
    airflow: Airflow, first: str, tmp_path: Path
):
    found = airflow.script("installed", env=load_first(airflow, first, tmp_path / "path")).result

    order = [name for name in found["plugins"] if name in ("keepline", "OpenLineageProviderPlugin")]
    assert (order[0] == "keepline") == (first == "keepline")
    assert found["class"] == OURS
    assert found["plugin's"] == [True]
    assert found["registered"] == ([[True]] if airflow.is_2 else [[True], [True]])


def test_every_hook_is_registered_with_the_arguments_of_the_providers(airflow: Airflow):
    found = airflow.script("installed").result
    assert found["hooks"] == found["provider's hooks"]
    assert len(found["hooks"]) >= 8


NOTHING_TO_DO = {
    "OpenLineage is disabled": {"AIRFLOW__OPENLINEAGE__DISABLED": "True"},
    "OpenLineage has no transport": {"AIRFLOW__OPENLINEAGE__TRANSPORT": ""},
}


@pytest.mark.parametrize("why", NOTHING_TO_DO)
def test_no_listener_is_registered_where(airflow: Airflow, why: str):
    found = airflow.script("installed", env=NOTHING_TO_DO[why]).result
    assert found["disabled"]
    assert not any(found["registered"])


LEFT_ALONE = {
    "keepline is disabled": ({"AIRFLOW__KEEPLINE__DISABLED": "True"}, "", None),
    "keepline's option can't be read": ({"AIRFLOW__KEEPLINE__DISABLED": "maybe"}, "", "maybe"),
    "its installation fails": ({}, "install fails", "keepline.airflow.resident"),
    "another subclass is there": ({}, "another subclass", "vendor.Listener"),
    "its pool isn't as expected": ({}, "no submit_callable", "OpenLineageListener"),
}


@pytest.mark.parametrize("when", LEFT_ALONE)
def test_the_providers_listener_stays_when(airflow: Airflow, when: str):
    env, how, warning = LEFT_ALONE[when]
    outcome = airflow.script("installed", how, env=env)

    assert outcome.result["class"] == ("vendor.Listener" if how == "another subclass" else THEIRS)
    assert all(one == [True] for one in outcome.result["registered"])
    warnings = outcome.lines("keepline")
    assert (warning is None) == (not warnings)
    assert all(warning in line for line in warnings)
    assert not outcome.lines("Traceback")


def test_airflow_without_the_openlineage_provider_loads_the_plugin_and_says_nothing(airflow: Airflow):
    outcome = airflow.script("without_provider")
    assert outcome.result["plugins"].count("keepline") == 1
    assert not outcome.lines("keepline")


def test_the_plugin_has_one_name_and_one_registration(airflow: Airflow):
    found = airflow.script("installed").result
    assert found["plugins"].count("keepline") == 1
    assert len(found["plugins"]) == len(set(found["plugins"]))


def test_airflow_lists_the_provider_and_its_options_with_their_defaults(airflow: Airflow):
    providers = airflow.command("airflow", "providers", "list", "--output", "plain")
    (line,) = [line for line in providers.splitlines() if line.startswith("keepline ")]
    assert __version__ in line

    show = [] if airflow.is_2 else ["--show-values"]
    options = airflow.command("airflow", "config", "list", "--section", "keepline", *show)
    assert "[keepline]" in options
    assert "stop_timeout = 5.0" in options
    assert "disabled = False" in options

    assert airflow.command("airflow", "config", "get-value", "keepline", "stop_timeout").split() == ["5.0"]
