"""Settings: what is taken, what is refused and how that is said, and what is never shown."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from keepline.config import Durability, RelayMode, Settings, outbox_folder
from keepline.errors import ConfigError
from keepline.outbox.record import MAX_RECORD_BYTES
from keepline.tuning import KEYS, Tuning

SECRET = "s3cr3t-key-of-nobody"
HTTP = {"type": "http", "url": "http://127.0.0.1:1"}


@pytest.fixture(autouse=True)
def nothing_configured(environment: Path) -> Path:
    return environment


def settings(**keys: Any) -> Settings:
    return Settings.from_dict({"type": "keepline.Transport", "transports": {"a": HTTP}, **keys})


def refusal(**keys: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        settings(**keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Legs


def test_a_map_names_its_legs() -> None:
    legs = settings(transports={"a": HTTP, "b": {"type": "console"}}).legs
    assert [(leg.name, leg.kind, leg.params) for leg in legs] == [
        ("a", "http", {"url": "http://127.0.0.1:1"}),
        ("b", "console", {}),
    ]


def test_an_empty_entry_of_a_map_is_left_out_as_the_composite_does() -> None:
    assert [leg.name for leg in settings(transports={"a": HTTP, "b": None, "c": {}}).legs] == ["a"]


def test_a_list_names_its_legs_by_name_or_by_type_and_place() -> None:
    legs = settings(transports=[HTTP, {"name": "mine", **HTTP}, {"type": "console"}]).legs
    assert [leg.name for leg in legs] == ["http-0", "mine", "console-2"]


def test_legs_keep_their_order_unless_they_are_to_be_sorted() -> None:
    transports = {"low": {**HTTP, "priority": 1}, "none": HTTP, "high": {**HTTP, "priority": "3"}}
    assert [leg.name for leg in settings(transports=transports).legs] == ["low", "none", "high"]
    in_order = settings(transports=transports, sort_transports=True).legs
    assert [leg.name for leg in in_order] == ["high", "low", "none"]


def test_the_configuration_that_came_is_left_as_it_was() -> None:
    came = {"transports": [{"name": "a", "priority": 1, **HTTP}], "relay": "external"}
    before = json.dumps(came)
    Settings.from_dict(came)
    assert json.dumps(came) == before


@pytest.mark.parametrize(
    ("transports", "said"),
    [
        (None, "setting `transports` is 'NoneType'; expected a map or a list"),
        ("text", "setting `transports` is 'str'; expected a map or a list"),
        ({}, "setting `transports` is {}; expected at least one transport"),
        ([], "setting `transports` is []; expected at least one transport"),
        ({"a": None}, "expected at least one transport"),
        ({"a": "text"}, "setting `transports.a` is 'str'; expected a map"),
        (["text"], "setting `transports.0` is 'str'; expected a map"),
        ({"a": {"url": "x"}}, "setting `transports.a.type` is None; expected the type of a transport"),
        ({"a": {"type": ["http"]}}, "setting `transports.a.type` is ['http']"),
        ({"a": {"type": "keepline.Transport"}}, "expected a transport other than Keepline's own"),
        ({"a": {"type": "keepline.transport.Transport"}}, "expected a transport other than Keepline's own"),
        ({"a": {**HTTP, "priority": "high"}}, "setting `transports.a.priority` is 'high'; expected a whole"),
        ({"a": {**HTTP, "priority": float("inf")}}, "setting `transports.a.priority` is inf"),
        (
            [{"name": "a", **HTTP}, {"name": "a", **HTTP}],
            "setting `transports` is 'a'; expected a name of its",
        ),
    ],
)
def test_wrong_legs_are_named_with_what_was_expected(transports: Any, said: str) -> None:
    assert said in refusal(transports=transports)


# Numbers, flags, modes


def test_numbers_have_defaults_and_can_be_written_as_text() -> None:
    assert settings().tuning == Tuning()
    tuning = settings(relay_idle="2.5", max_connections="7", retention=60).tuning
    assert (tuning.relay_idle, tuning.max_connections, tuning.retention) == (2.5, 7, 60.0)


WHOLE = ["max_bytes", "max_connections", "max_event_bytes", "poison_attempts", "segment_bytes"]


@pytest.mark.parametrize("key", sorted(KEYS))
@pytest.mark.parametrize("value", [0, -1, "x", None, True, float("inf"), float("nan"), [1], "1e999"])
def test_what_is_no_number_above_zero_is_refused_by_name(key: str, value: Any) -> None:
    expected = "a whole number greater than 0" if key in WHOLE else "a number greater than 0"
    if key.endswith("_bytes"):
        expected += ", or a size such as `512MiB`"
    assert refusal(**{key: value}) == f"keepline setting `{key}` is {value!r}; expected {expected}"


@pytest.mark.parametrize("key", WHOLE)
@pytest.mark.parametrize("value", [1.5, "1.5", 2000000.5])
def test_a_part_of_a_connection_or_byte_is_refused(key: str, value: Any) -> None:
    assert f"`{key}` is {value!r}; expected a whole number greater than 0" in refusal(**{key: value})


def test_a_whole_number_may_be_written_with_a_point() -> None:
    # As YAML and JSON of some tools do.
    connections = settings(max_connections=7.0).tuning.max_connections
    assert (connections, type(connections)) == (7, int)


@pytest.mark.parametrize(
    ("size", "comes_to"),
    [
        ("2GB", 2_000_000_000),
        ("512MiB", 512 << 20),
        (" 1.5 gib ", 3 << 29),
        ("1.1MB", 1_100_000),
        ("2TiB", 2 << 40),
        ("4000kB", 4_000_000),
        ("2000000", 2_000_000),
    ],
)
def test_a_size_may_be_written_with_its_unit(size: str, comes_to: int) -> None:
    assert settings(max_bytes=size).tuning.max_bytes == comes_to
    assert settings(segment_bytes=size).tuning.segment_bytes == comes_to


@pytest.mark.parametrize("size", ["2 apples", "GB", "1iB", "-1MB", "0.0001kB", "9" * 400 + "TB", "0GiB"])
def test_a_size_that_is_none_is_refused(size: str) -> None:
    assert "or a size such as `512MiB`" in refusal(max_bytes=size)


def test_a_first_pause_longer_than_the_longest_is_refused_with_both_names() -> None:
    assert refusal(backoff_first=60) == (
        "keepline setting `backoff_first` is 60.0; expected at most `backoff_max`, which is 30.0"
    )
    assert refusal(backoff_max=0.1) == (
        "keepline setting `backoff_first` is 0.5; expected at most `backoff_max`, which is 0.1"
    )


def test_an_outbox_too_small_for_a_ledger_is_refused() -> None:
    assert refusal(max_bytes=1000) == (
        "keepline setting `max_bytes` is 1000; expected at least 1MiB (1048576 bytes)"
    )


def test_events_larger_than_a_record_can_be_aren_t_promised() -> None:
    assert settings(max_event_bytes="256MiB").tuning.max_event_bytes == MAX_RECORD_BYTES
    assert refusal(max_event_bytes="257MiB") == (
        "keepline setting `max_event_bytes` is 269484032; expected at most 256MiB (268435456 bytes)"
    )


@pytest.mark.parametrize("mode", list(RelayMode))
def test_a_mode_is_read_whatever_its_case(mode: RelayMode) -> None:
    assert settings(relay=f" {mode.value.upper()} ").relay is mode


def test_events_survive_processes_unless_they_are_to_survive_a_power_cut_too() -> None:
    assert settings().durability is Durability.PROCESS
    assert settings(durability="Process").durability is Durability.PROCESS
    assert settings(durability="power").durability is Durability.POWER
    assert refusal(durability="forever") == (
        "keepline setting `durability` is 'forever'; expected one of `process`, `power`"
    )


def test_a_mode_that_is_none_is_refused_with_those_that_are() -> None:
    assert refusal(relay="sometimes") == (
        "keepline setting `relay` is 'sometimes'; expected one of `auto`, `external`, `inline`"
    )


@pytest.mark.parametrize("key", ["sort_transports", "continue_on_success"])
def test_a_flag_that_is_none_is_refused(key: str) -> None:
    assert refusal(**{key: "perhaps"}) == f"keepline setting `{key}` is 'perhaps'; expected true or false"


def test_a_setting_that_nobody_knows_is_warned_of_by_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        settings(relay_idel=3, continue_on_failure=True, name="n", priority=2)
    assert caplog.messages == ["keepline setting `relay_idel` is not known and has no effect"]


@pytest.mark.parametrize(("value", "failover"), [(True, False), ("no", True), (None, False)])
def test_failover_is_what_the_composite_calls_not_to_continue_on_success(
    value: object, failover: bool, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {} if value is None else {"continue_on_success": value}
    with caplog.at_level(logging.WARNING):
        assert settings(**keys).failover is failover
    assert caplog.messages == []


# The outbox


def test_the_outbox_is_as_configured_else_the_variable_s_else_airflow_s_else_in_the_home(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outbox_folder() == environment / ".keepline"
    monkeypatch.setenv("AIRFLOW_HOME", "/srv/airflow")
    assert outbox_folder() == Path("/srv/airflow/keepline")
    monkeypatch.setenv("KEEPLINE_OUTBOX", "/srv/outbox")
    assert outbox_folder() == Path("/srv/outbox")
    assert outbox_folder("/srv/mine") == Path("/srv/mine")
    assert outbox_folder("~/mine") == environment / "mine"
    assert outbox_folder("mine/../yours") == environment / "yours"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "setting `outbox` is 7; expected the path of a folder"),
        ("a\0b", "setting `outbox` is 'a\\x00b'; expected the path of a folder"),
        (f"postgresql://me:{SECRET}@host/db", "setting `outbox` is 'postgresql://...'; expected the path"),
        (
            "~nobody-of-this-name/x",
            "setting `outbox` is '~nobody-of-this-name/x'; expected the path of a folder",
        ),
    ],
)
def test_an_outbox_that_is_no_folder_is_refused_without_showing_a_key(value: object, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        outbox_folder(value)
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_user_without_a_home_is_told_to_name_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 987654)  # as in a container that runs under any number
    with pytest.raises(ConfigError, match="this user has no home"):
        outbox_folder()


# Handing over and showing


def test_settings_that_are_handed_over_come_to_the_same(environment: Path) -> None:
    given = settings(outbox="relative", relay="inline", durability="power", relay_idle="3", transports=[HTTP])
    taken = Settings.from_dict(json.loads(given.to_json()))
    assert taken.outbox == environment / "relative"
    assert (taken.relay, taken.legs, taken.tuning) == (given.relay, given.legs, given.tuning)
    assert taken.durability is given.durability is Durability.POWER
    assert taken.digest("salt") == given.digest("salt")


def test_settings_that_cannot_be_handed_over_say_what_to_do_instead() -> None:
    with pytest.raises(ConfigError, match="`relay: inline`"):
        settings(transports={"a": {**HTTP, "session": object()}}).to_json()


def test_a_digest_changes_with_the_salt_with_each_setting_and_with_a_key_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digests = {settings().digest("salt"), settings().digest("pepper"), settings(relay_idle=1).digest("salt")}
    monkeypatch.setenv("DD_API_KEY", SECRET)
    digests.add(settings().digest("salt"))
    monkeypatch.setenv("DD_API_KEY", SECRET + "2")
    digests.add(settings().digest("salt"))
    assert len(digests) == 5
    assert not any(SECRET in digest for digest in digests)


def test_no_repr_shows_a_key() -> None:
    legs = {"a": {**HTTP, "auth": {"type": "api_key", "apiKey": SECRET}}}
    given = settings(transports=legs)
    for text in (repr(given), str(given), f"{given.legs}", repr(given.legs[0])):
        assert SECRET not in text
        assert "'a'" in text
    assert repr(given.legs[0]) == "Leg(name='a', kind='http', priority=0)"
