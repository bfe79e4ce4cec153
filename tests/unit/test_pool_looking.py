from __future__ import annotations

import time
from pathlib import Path

from keepline.pool.aside import set_aside
from keepline.pool.looking import look_into
from keepline.pool.segments import Segments
from keepline.pool.settings import Bounds
from keepline.pool.spool import Spool
from keepline.pool.written import arguments_of, pack


def test_a_folder_without_spools_has_no_calls_and_stays_away(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    assert look_into(root) == (0, 0)
    assert not root.exists()


def test_the_calls_of_every_process_are_counted_and_those_that_were_set_aside(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    spools = [Spool(root, Bounds()) for _ in range(2)]
    for number, spool in enumerate(spools, start=1):
        for call in range(number):
            spool.append(pack("run", arguments_of((call,), {}), time.time()))
    assert look_into(root) == (3, 0)
    segments = Segments(spools[0].place)
    found = segments.following(1, 0)
    segments.close()
    assert found is not None
    assert set_aside(spools[0].place, found.call)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert look_into(root) == (3, 1)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
