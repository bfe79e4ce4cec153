"""Looking at what is in the spools, without taking it."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest

from keepline.pool.aside import set_aside
from keepline.pool.place import ASIDE
from keepline.pool.reader import Reader
from keepline.pool.settings import Bounds
from keepline.pool.spool import Spool
from keepline.pool.unread import unread
from keepline.pool.written import arguments_of, pack

# A segment holds a few of these calls.
SMALL = Bounds(segment_bytes=300)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spools"


def submit(spool: Spool, *names: str) -> None:
    for name in names:
        spool.append(pack("run", arguments_of((name,), {}), time.time()))


def seen(root: Path) -> set[str]:
    return {pickle.loads(call.arguments)[0][0] for call in unread(root)}


def test_a_folder_that_is_not_there_has_none(root: Path) -> None:
    assert seen(root) == set()


def test_all_that_was_submitted_is_seen_and_stays(root: Path) -> None:
    names = [str(number) for number in range(40)]
    first, second = Spool(root, SMALL), Spool(root, SMALL)
    submit(first, *names[:30])
    submit(second, *names[30:])
    assert seen(root) == set(names)
    assert seen(root) == set(names)


def test_what_a_worker_has_in_hand_is_seen_and_what_is_done_is_not(root: Path) -> None:
    spool = Spool(root, SMALL)
    submit(spool, "a", "b", "c")
    reader = Reader(spool.place, 1)
    reader.next()
    assert seen(root) == {"a", "b", "c"}
    reader.next()
    assert seen(root) == {"b", "c"}
    reader.end()
    assert seen(root) == {"c"}


def test_what_was_set_aside_is_seen(root: Path) -> None:
    spool = Spool(root, SMALL)
    submit(spool, "a")
    reader = Reader(spool.place, 1)
    call = reader.next()
    assert call is not None
    assert set_aside(spool.place, call)
    reader.end()
    assert list((root / ASIDE).iterdir())
    assert seen(root) == {"a"}
