from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import tomllib

ROOT = Path(__file__).parents[2]
LISTENER = "tests.unit.test_listener"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("provider_tests")


def outcomes(**each: str) -> dict[str, str]:
    return {f"{LISTENER}.TestIt::{name}": outcome for name, outcome in each.items()}


def test_what_passes_upstream_alone_is_told_with_its_reason_or_without(tool: ModuleType):
    theirs = outcomes(test_a="passed", test_b="passed", test_c="failed", test_d="skipped", test_e="passed")
    ours = outcomes(test_a="passed", test_b="failed", test_c="failed", test_d="failed", test_e="skipped")
    unknown, excused, stale = tool.compared(theirs, ours, {"test_b": "why"})
    assert unknown == [f"{LISTENER}.TestIt::test_e"]
    assert excused == {f"{LISTENER}.TestIt::test_b": "why"}
    assert stale == []


def test_an_exception_holds_for_all_parameters_of_a_test_and_needs_one(tool: ModuleType):
    theirs, ours = {"m::test_a[1-x]": "passed"}, {}
    assert tool.compared(theirs, ours, {"test_a": "why"})[:2] == ([], {"m::test_a[1-x]": "why"})
    assert tool.compared(theirs, theirs, {"test_a": "why"})[2] == ["test_a"]


def test_a_report_is_read_case_by_case(tool: ModuleType, tmp_path: Path):
    kinds = ("<failure/>", "<error/>", "<skipped/>", "<system-out/>", "")
    report = tmp_path / "report.xml"
    report.write_text(f"<a><b>{''.join(f'<testcase>{kind}</testcase>' for kind in kinds)}</b></a>")
    found = [tool._outcome(one) for one in tool._cases(report)]
    assert found == ["failed", "failed", "skipped", "passed", "passed"]
    assert isinstance(tool._cases(report)[0], ElementTree.Element)


def test_each_exception_is_of_a_version_that_is_run_and_is_in_the_documentation(tool: ModuleType):
    listed = tomllib.loads((ROOT / "tools" / "upstream" / "exceptions.toml").read_text())["exception"]
    page = (ROOT / "docs" / "provider-tests.md").read_text()
    for one in listed:
        assert set(one["providers"]) <= set(tool.AIRFLOWS)
        assert one["test"] in page
        assert one["reason"]
