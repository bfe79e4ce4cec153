"""Where ``keepline.Transport`` is configured, how it refuses what is wrong, and that it looks composite."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from openlineage.client import OpenLineageClient
from openlineage.client.transport.composite import CompositeTransport
from tests.support_relay import client, run_event, status, threads, transport, until

import keepline
from keepline.config import RelayMode
from keepline.errors import ConfigError
from keepline.transport import Transport

pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(60)]

SECRET = "s3cr3t-key-of-nobody"
A = {"type": "http", "url": "http://127.0.0.1:1", "endpoint": "x/y", "timeout": 3.5}
KEYED = {**A, "auth": {"type": "api_key", "apiKey": SECRET}, "custom_headers": {"X-Mine": "a-header-value"}}
D = {"type": "datadog", "apiKey": SECRET, "site": "us5.datadoghq.com"}


def legs_of(configured: OpenLineageClient) -> list[tuple[str, str]]:
    assert isinstance(configured.transport, Transport)
    return [(leg.name, leg.kind) for leg in configured.transport.config.settings.legs]


def appended(configured: OpenLineageClient) -> int:
    """How many events are in the outbox of a client that nothing delivers for."""
    assert isinstance(configured.transport, Transport)
    return status(configured.transport.config.settings.outbox).waiting


# Places


@pytest.mark.parametrize(
    "transports", [{"a": A, "d": D}, [{"name": "a", **A}, {"name": "d", **D}]], ids=["map", "list"]
)
def test_a_client_is_configured_by_a_dict(transports: Any, outbox: Path) -> None:
    configured = client(outbox, transports, relay="external")
    configured.emit(run_event("one"))
    assert legs_of(configured) == [("a", "http"), ("d", "datadog")]
    assert appended(configured) == 1
    assert configured.close()


def test_a_client_is_configured_by_variables_nested_and_as_json(
    outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        "TYPE": "keepline.Transport",
        "OUTBOX": str(outbox),
        "RELAY": "external",
        "RELAY_IDLE": "7",
        "MAX_CONNECTIONS": "2",
        "SORT_TRANSPORTS": "true",
        "TRANSPORTS__TROVE": json.dumps({**KEYED, "priority": 1}),
        "TRANSPORTS__DATADOG__TYPE": "datadog",
        "TRANSPORTS__DATADOG__APIKEY": SECRET,
        "TRANSPORTS__DATADOG__PRIORITY": "5",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"OPENLINEAGE__TRANSPORT__{name}", value)
    configured = OpenLineageClient()
    configured.emit(run_event("one"))
    assert legs_of(configured) == [("datadog", "datadog"), ("trove", "http")]
    assert isinstance(configured.transport, Transport)
    settings = configured.transport.config.settings
    assert (settings.outbox, settings.relay) == (outbox, RelayMode.EXTERNAL)
    assert (settings.tuning.relay_idle, settings.tuning.max_connections) == (7.0, 2)
    assert appended(configured) == 1


@pytest.mark.parametrize("place", ["working folder", "variable", "home"])
def test_a_client_is_configured_by_a_file(
    place: str, environment: Path, tmp_path: Path, outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = environment / ".openlineage"
    folder = {"working folder": environment, "variable": tmp_path, "home": home}[place]
    folder.mkdir(exist_ok=True)
    written = folder / "openlineage.yml"
    text = {"type": "keepline.Transport", "outbox": str(outbox), "relay": "external", "transports": {"a": A}}
    written.write_text(yaml.safe_dump({"transport": text}))
    if place == "variable":
        monkeypatch.setenv("OPENLINEAGE_CONFIG", str(written))
    configured = OpenLineageClient()
    configured.emit(run_event("one"))
    assert legs_of(configured) == [("a", "http")]
    assert appended(configured) == 1


def test_the_url_variable_of_old_is_a_leg_as_of_the_composite(
    outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("OPENLINEAGE_API_KEY", SECRET)
    configured = client(outbox, {"a": A}, relay="external")
    assert sorted(legs_of(configured)) == [("a", "http"), ("default_http", "http")]
    for name in ("TYPE", "URL", "AUTH"):  # which the client has set
        monkeypatch.delenv(f"OPENLINEAGE__TRANSPORT__TRANSPORTS__DEFAULT_HTTP__{name}")


def test_both_names_of_the_transport_mean_it(outbox: Path) -> None:
    configured = client(outbox, {"a": A}, relay="external", type="keepline.transport.Transport")
    assert type(configured.transport) is Transport is keepline.Transport


# Refusals


class Unfit:
    """Something that is no transport."""


BAD_LEGS = [
    {"type": "http"},
    {"type": "http", "url": "no-url"},
    {"type": "http", "url": "http://"},
    {"type": "http", "url": "http://[::1"},
    {"type": "async_http"},
    {"type": "async_http", "url": "no-url"},
    {"type": "http", "url": "http://x", "auth": {"type": "api_key"}},
    {"type": "http", "url": "http://x", "auth": {"type": "no.such.Provider"}},
    {"type": "http", "url": "http://x", "auth": {"type": "builtins.dict"}},
    {"type": "http", "url": "http://x", "compression": "zip"},
    {"type": "datadog"},
    {"type": "datadog", "apiKey": "k", "site": "nowhere"},
    {"type": "kafka"},
    {"type": "kafka", "config": {}},
    {"type": "kafka", "config": "text", "topic": "t"},
    {"type": "file"},
    {"type": "transform"},
    {"type": "transform", "transport": A},
    {"type": "gcplineage"},
    {"type": "unknown"},
    {"type": "no.such.Transport"},
    {"type": "builtins.dict"},
    {"type": f"{__name__}.Unfit"},
    {"type": f"{__name__}.legs_of"},
]


@pytest.mark.parametrize("bad", BAD_LEGS, ids=str)
def test_a_wrong_leg_is_refused_with_the_composite_s_own_words(bad: dict[str, Any], outbox: Path) -> None:
    composite = {"type": "composite", "transports": {"a": copy.deepcopy(bad)}}
    with pytest.raises(Exception) as theirs:
        OpenLineageClient(config={"transport": composite})
    with pytest.raises(Exception) as ours:
        client(outbox, {"a": bad})
    assert (type(ours.value), str(ours.value)) == (type(theirs.value), str(theirs.value))
    assert not outbox.exists()


def test_a_single_transport_that_only_changed_its_word_is_shown_the_map_to_put_it_into() -> None:
    with pytest.raises(ConfigError, match=r"a map of transports, such as .*http"):
        OpenLineageClient(config={"transport": {"type": "keepline.Transport", "url": "http://127.0.0.1:1"}})


@pytest.mark.parametrize("keys", [{"relay": "x"}, {"relay_idle": -1}, {"outbox": "postgresql://me:pw@h/d"}])
def test_a_wrong_setting_of_keepline_s_is_refused(keys: dict[str, Any], outbox: Path) -> None:
    with pytest.raises(ConfigError, match=next(iter(keys))):
        OpenLineageClient(config={"transport": {**transport(outbox, {"a": A}), **keys}})


# Looking composite


def told(composite: Any) -> list[dict[str, Any]]:
    """What those who look at a composite's transports see, as far as it can be compared."""
    seen = []
    for one in composite.transports:
        http = getattr(one, "http", one)
        config = getattr(one, "config", None)
        seen.append(
            {
                "class": type(one),
                "kind": one.kind,
                "name": one.name,
                "priority": one.priority,
                "url": getattr(http, "url", None),
                "endpoint": getattr(http, "endpoint", None),
                "timeout": getattr(config, "timeout", None),
                "compression": getattr(http, "compression", None),
                "auth": http.config.auth.get_bearer() if hasattr(http, "config") else None,
                "headers": getattr(config, "custom_headers", None),
            }
        )
        one.close(0)
    return seen


@pytest.mark.parametrize("keys", [{}, {"sort_transports": True}, {"continue_on_failure": False}], ids=str)
@pytest.mark.parametrize(
    "transports",
    [
        {"a": KEYED, "d": {**D, "priority": 2}, "none": None, "f": {**A, "type": "async_http"}},
        [KEYED, {"name": "mine", "priority": "4", **A}, {"type": "console"}],
    ],
    ids=["map", "list"],
)
def test_to_those_who_look_it_is_the_composite(transports: Any, keys: dict[str, Any], outbox: Path) -> None:
    composite = {"type": "composite", "transports": copy.deepcopy(transports), **keys}
    theirs = OpenLineageClient(config={"transport": composite}).transport
    before = copy.deepcopy(transports)
    configured = client(outbox, transports, relay="external", **keys)
    ours = configured.transport
    assert isinstance(ours, CompositeTransport)
    assert (ours.kind, theirs.kind) == ("composite", "composite")
    for key in ("continue_on_failure", "continue_on_success", "sort_transports"):
        assert getattr(ours.config, key) == getattr(theirs.config, key)  # type: ignore[attr-defined]
    assert told(ours) == told(theirs)
    assert ours.config.transports == theirs.config.transports  # type: ignore[attr-defined]
    # Looking changes nothing of what was configured, nor of what is delivered.
    assert transports == before
    configured.emit(run_event("one"))
    assert appended(configured) == 1
    assert configured.close()


def test_the_client_s_transports_are_built_only_when_somebody_looks_and_closed_with_it(outbox: Path) -> None:
    before = threads("self")
    configured = client(outbox, {"a": {**A, "type": "async_http"}}, relay="external")
    configured.emit(run_event("one"))
    assert threads("self") == before
    (built,) = configured.transport.transports  # type: ignore[attr-defined]
    assert threads("self") == before + 1
    assert configured.transport.transports == [built]  # type: ignore[attr-defined]
    assert configured.close(5)
    until(lambda: threads("self") == before)


def test_no_repr_shows_a_key(outbox: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        configured = client(outbox, {"a": KEYED, "d": D}, relay="external")
        configured.emit(run_event("one"))
    ours = configured.transport
    assert isinstance(ours, Transport)
    for shown in (ours, ours.config, ours.config.settings, ours.config.settings.legs):
        for text in (repr(shown), str(shown)):
            assert SECRET not in text
            assert "a-header-value" not in text
    assert SECRET not in caplog.text
    assert "a-header-value" not in caplog.text


def test_an_outbox_that_can_t_be_made_is_reported_by_emit_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    configured = client(tmp_path / "file" / "outbox", {"a": A})
    with pytest.raises(keepline.errors.OutboxUnavailable, match="name a folder in `outbox`"):
        configured.emit(run_event("one"))


def test_all_clients_of_a_process_share_what_appends_to_an_outbox(outbox: Path, tmp_path: Path) -> None:
    made = [client(outbox, {"a": A}, relay="external").transport for _ in range(5)]
    elsewhere = client(tmp_path / "elsewhere", {"a": A}, relay="external").transport
    emissions = {id(one._emission) for one in made if isinstance(one, Transport)}
    assert len(emissions) == 1
    assert isinstance(elsewhere, Transport)
    assert id(elsewhere._emission) not in emissions
    fds = len(list(Path("/proc/self/fd").iterdir()))
    for one in made:
        one.emit(run_event("one"))
    assert len(list(Path("/proc/self/fd").iterdir())) == fds + 1
    assert status(outbox).waiting == 5
