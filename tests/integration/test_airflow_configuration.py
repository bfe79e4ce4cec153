from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml
from tests.integration.airflow_support import KEEPLINE, Airflow, Variant, airflow

__all__ = ["airflow"]

# What the provider of the seed's versions doesn't know yet.
since_2_20 = pytest.mark.parametrize("airflow", ["3.3.2"], indirect=True)

TROVE = {
    "type": "http",
    "url": "http://trove.invalid:5000",
    "auth": {"type": "api_key", "apiKey": "k1"},
}
DATADOG = {"type": "datadog", "site": "http://dog.invalid", "apiKey": "k2"}


def as_variable(airflow: Airflow, transport: dict[str, Any]) -> None:
    airflow.transport(transport)


def as_airflow_cfg(airflow: Airflow, transport: dict[str, Any]) -> None:
    text = json.dumps(transport)
    (airflow.home / "airflow.cfg").write_text(f"[openlineage]\ntransport = {text}\n")


def as_config_path(airflow: Airflow, transport: dict[str, Any]) -> None:
    path = airflow.home / "lineage.yaml"
    path.write_text(yaml.safe_dump({"transport": transport}))
    airflow.env["AIRFLOW__OPENLINEAGE__CONFIG_PATH"] = str(path)


def as_clients_file(airflow: Airflow, transport: dict[str, Any]) -> None:
    path = airflow.home / "openlineage.yml"
    path.write_text(yaml.safe_dump({"transport": transport}))
    airflow.env["OPENLINEAGE_CONFIG"] = str(path)


def as_clients_variables(airflow: Airflow, transport: dict[str, Any]) -> None:
    first, *others = transport["transports"].items()
    prefix = "OPENLINEAGE__TRANSPORT"
    for key in ("type", "outbox"):
        airflow.env[f"{prefix}__{key.upper()}"] = transport[key]
    airflow.env[f"{prefix}__TRANSPORTS__{first[0].upper()}"] = json.dumps(first[1])
    for name, leg in others:
        for key, value in leg.items():
            airflow.env[f"{prefix}__TRANSPORTS__{name.upper()}__{key.upper()}"] = value


def as_connection(airflow: Airflow, transport: dict[str, Any]) -> None:
    connection = {"conn_type": "generic", "extra": {"transport": transport}}
    airflow.env["AIRFLOW__OPENLINEAGE__CONFIG_CONN_ID"] = "lineage"
    airflow.env["AIRFLOW_CONN_LINEAGE"] = json.dumps(connection)


Way = Callable[[Airflow, dict[str, Any]], None]


def switched(airflow: Airflow, *ways: Way) -> None:
    outbox = str(airflow.home / "box")
    transport = {"type": KEEPLINE, "outbox": outbox, "transports": {"trove": TROVE, "dog": DATADOG}}
    variants: dict[str, Variant] = {}
    for way in ways:
        configured = replace(airflow, env={})
        way(configured, transport)
        variants[way.__name__] = [], configured.env
    for name, outcome in airflow.variants("client", variants).items():
        assert outcome.result == {
            "class": "keepline.transport.Transport",
            "legs": {
                "trove": {"kind": "http", "url": "http://trove.invalid:5000", "key": "Bearer k1"},
                "dog": {"kind": "datadog", "url": "http://dog.invalid", "key": "k2"},
            },
            "outbox": outbox,
            "command line's": outbox,
            "the same": True,
        }, name


def test_one_word_switches_wherever_openlineage_is_configured(airflow: Airflow):
    switched(airflow, as_variable, as_config_path, as_clients_file, as_clients_variables)


def test_one_word_switches_in_airflow_cfg(airflow: Airflow):
    switched(airflow, as_airflow_cfg)  # which is read once a process


@since_2_20
def test_one_word_switches_in_an_airflow_connection(airflow: Airflow):
    switched(airflow, as_connection)


@since_2_20
def test_an_api_key_of_a_leg_can_stand_in_an_airflow_connection(airflow: Airflow):
    auth = {"type": "airflow_connection_api_key", "conn_id": "trove"}
    airflow.transport({"type": KEEPLINE, "transports": {"trove": {**TROVE, "auth": auth}}})
    airflow.env["AIRFLOW_CONN_TROVE"] = json.dumps({"conn_type": "http", "password": "s3cret"})

    found = airflow.script("client").result
    assert found["legs"]["trove"]["key"] == "Bearer s3cret"
    assert found["the same"]


def test_the_command_line_prints_json_alone_where_it_has_to_ask_airflow(airflow: Airflow):
    outbox = str(airflow.home / "box")
    (airflow.home / "box").mkdir()
    as_airflow_cfg(airflow, {"type": KEEPLINE, "outbox": outbox, "transports": {"trove": TROVE}})
    assert json.loads(airflow.command("keepline", "status", "--json"))["outbox"] == outbox
