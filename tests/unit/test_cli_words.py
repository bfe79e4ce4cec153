"""What the commands print for people: tables, and what became of an event."""

from __future__ import annotations

import os
import sys

import pytest

from keepline.cli import printing
from keepline.cli.demo import demo
from keepline.cli.fates import told
from keepline.cli.printing import print_table
from keepline.config import Settings
from keepline.demo import main as demo_main
from keepline.outbox.tracing import TracedDelivery

RUN = "00000000-0000-4000-8000-000000000001"
TITLES = ("dead letter", "run", "given up", "answer")
ROWS = [("1@a", RUN, "2026-01-01 00:00:00", "HTTP 422: " + "x" * 300), ("22@a", "-", "-", "-")]


def settings(*, failover: bool) -> Settings:
    legs = {name: {"type": "http", "url": "http://127.0.0.1:1"} for name in ("first", "second")}
    return Settings.from_dict(
        {"type": "keepline.Transport", "transports": legs, "continue_on_success": not failover}
    )


def test_a_table_that_is_piped_has_a_row_on_a_line_and_nothing_shortened(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(TITLES, ROWS)
    titles, first, second = capsys.readouterr().out.splitlines()
    assert titles.split("  ")[0] == "dead letter"
    assert [cell.strip() for cell in first.split("  ") if cell.strip()] == list(ROWS[0])
    assert second.split()[0] == "22@a"


@pytest.mark.parametrize("columns", [20, 80, 100])
def test_a_table_on_a_terminal_shortens_answers_alone(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printing, "get_terminal_size", lambda: os.terminal_size((columns, 24)))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    print_table(TITLES, ROWS)
    line = capsys.readouterr().out.splitlines()[1]
    assert f"  {RUN}  2026-01-01 00:00:00  HTTP 422: x" in line
    assert line.endswith("x\N{HORIZONTAL ELLIPSIS}")
    assert len(line) == max(columns, 11 + 2 + 36 + 2 + 19 + 2 + 12)


def test_an_event_that_fails_alone_says_so() -> None:
    one = TracedDelivery("first", "pending", 5, 503, "HTTP 503", charged=4)
    assert told(one, [one], settings(failover=False)) == (
        "pending: fails while others come through, 4 of at most 10 times; its run waits for it; 5 tries, "
        "last answer HTTP 503"
    )
    assert "come through, 4 times;" in told(one, [one], None)


def test_an_answer_is_said_once() -> None:
    one = TracedDelivery("first", "pending", 3, 503, "HTTP 503: x", why="out: HTTP 503: x")
    assert told(one, [one], None) == "pending: out: HTTP 503: x; 3 tries"


@pytest.mark.parametrize(
    ("state", "failover", "why"),
    [
        ("delivered", True, "taken by `first`"),
        ("pending", True, "it waits at `first`"),
        ("dead", True, "dead at `first`"),
        ("delivered", False, "it wasn't configured then"),
        ("none", True, "it wasn't configured then"),
    ],
)
def test_what_isn_t_for_a_destination_says_why(state: str, failover: bool, why: str) -> None:
    all_ = [TracedDelivery("first", state), TracedDelivery("second", "none")]
    assert told(all_[1], all_, settings(failover=failover)) == f"not for it: {why}"


def test_what_another_took_tells_what_was_said_before_it() -> None:
    one = TracedDelivery("second", "delivered", 2, 201, "first: HTTP 503", ended_at=1.0)
    assert told(one, [one], None).endswith(", 2 tries, HTTP 201; before: first: HTTP 503")


def test_the_demo_without_airflow_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_main, "_NEEDED", ("a-package-that-is-nowhere",))
    with pytest.raises(SystemExit) as ended:
        demo.main([], standalone_mode=False)
    assert ended.value.code == 1
    text = " ".join(capsys.readouterr().err.split())
    assert text == (
        "Error: a-package-that-is-nowhere is not installed here; run `pip install 'keepline[airflow]'`"
    )
