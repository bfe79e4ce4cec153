from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.integration.airflow_support import KEEPLINE, Airflow, Variant, airflow

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


def test_every_hook_is_registered_with_the_arguments_of_the_providers_by_a_plugin_with_a_name_of_its_own(
    airflow: Airflow,
):
    found = airflow.script("installed").result
    assert found["hooks"] == found["provider's hooks"]
    assert len(found["hooks"]) >= 8
    assert found["plugins"].count("keepline") == 1
    assert len(found["plugins"]) == len(set(found["plugins"]))


def test_no_listener_is_registered_where_openlineage_is_off(airflow: Airflow):
    off: dict[str, Variant] = {
        "by its option": ([], {"AIRFLOW__OPENLINEAGE__DISABLED": "True"}),
        "for want of a transport": ([], {"AIRFLOW__OPENLINEAGE__TRANSPORT": ""}),
    }
    for why, outcome in airflow.variants("installed", off).items():
        assert outcome.result["disabled"], why
        assert not any(outcome.result["registered"]), why


LEFT_ALONE: dict[str, Variant] = {
    "": ([], {"AIRFLOW__KEEPLINE__DISABLED": "True"}),
    "`[keepline] disabled` is 'maybe'": ([], {"AIRFLOW__KEEPLINE__DISABLED": "maybe"}),
    "ModuleNotFoundError": (["install fails"], {}),
    "vendor.Listener": (["another subclass"], {}),
    "plugins.listener.OpenLineageListener": (["no submit_callable"], {}),
}


def test_the_providers_listener_stays_where_keepline_is_off_or_cannot_take_its_place(airflow: Airflow):
    for warning, outcome in airflow.variants("installed", LEFT_ALONE).items():
        assert outcome.result["class"] == ("vendor.Listener" if warning == "vendor.Listener" else THEIRS)
        assert all(one == [True] for one in outcome.result["registered"]), warning
        said = outcome.lines("keepline")
        assert bool(said) == bool(warning)
        assert all(warning in line for line in said)
        assert not outcome.lines("Traceback")


def test_airflow_without_the_openlineage_provider_loads_the_plugin_and_says_nothing(airflow: Airflow):
    outcome = airflow.script("without_provider")
    assert outcome.result["plugins"].count("keepline") == 1
    assert not outcome.lines("keepline")


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
