"""Times as somebody types them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click
import pytest

from keepline.cli.when import When, clock


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place five hours west of Greenwich."""
    monkeypatch.setenv("TZ", "XXX5")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def read(text: str) -> float:
    return When().convert(text, None, None)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-01-31T18:30", 1769902200),  # local time
        ("2026-01-31 18:30:00", 1769902200),
        ("2026-01-31T23:30Z", 1769902200),
        ("2026-01-31T23:30:00z", 1769902200),
        ("2026-02-01T00:30:00+01:00", 1769902200),
        ("2026-01-31", 1769835600),
    ],
)
def test_a_time_without_a_zone_is_local(text: str, at: float) -> None:
    assert read(text) == at


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5 d", 129600), ("1w", 604800)]
)
def test_a_time_may_be_so_long_ago(text: str, seconds: float) -> None:
    assert read(text) == pytest.approx(time.time() - seconds, abs=5)


@pytest.mark.parametrize("text", ["", "soon", "2h ago", "-2h", "2026-13-01", "9999999999999999", "1y"])
def test_what_is_no_time_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(click.BadParameter, match="local time unless it names a zone"):
        read(text)


@pytest.mark.usefixtures("elsewhere")
def test_a_time_is_shown_in_local_time() -> None:
    assert clock(1769902200.5) == "2026-01-31 18:30:00"
    assert clock(None) == "-"
