"""Workers that hang, are stopped, or have no memory: each is replaced, and what it had is done."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from tests.unit.pool_support import METHODS, SOON, AskingPool, Folder, folder, has_ended, make, until

from keepline.pool.aside import set_aside_files

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["folder", "make"]

pytestmark = pytest.mark.timeout(120)

SHORT = 2.0  # seconds for a call: what goes well takes milliseconds, even on a busy machine


def texts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage().split(" ended by ")[-1] for record in caplog.records]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stopped", [False, True], ids=["hangs", "is stopped"])
def test_a_worker_that_takes_too_long_is_replaced_and_its_call_run_again(
    make: Callable[..., AskingPool],
    folder: Folder,
    caplog: pytest.LogCaptureFixture,
    method: str,
    stopped: bool,
) -> None:
    pool = make(method=method, call_timeout=SHORT)
    hanging, later = pool.ask("hang_once", "one"), pool.ask("echo", 1)
    (first,) = until(lambda: folder.pids("begins one"))
    folder.allow("one")  # for those that come later
    if stopped:
        os.kill(first, signal.SIGSTOP)
    assert hanging.result() == "one"
    assert later.result() == 1
    assert has_ended(first)
    assert texts(caplog) == [f"SIGKILL (it finished no call in {SHORT:g} s); answer() is run again"]


def test_an_idle_worker_that_is_stopped_is_replaced_when_a_call_has_waited(
    make: Callable[..., AskingPool], caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(call_timeout=SHORT)
    first = pool.ask("pid").result()
    until(lambda: pool.pending == 0)
    os.kill(first, signal.SIGSTOP)
    assert pool.ask("pid").result() != first
    assert texts(caplog) == [f"SIGKILL (it took no call in {SHORT:g} s); it had no call"]


def test_a_worker_that_is_stopped_with_the_lock_of_the_state_holds_up_nobody_for_long(
    make: Callable[..., AskingPool], folder: Folder
) -> None:
    pool = make(workers=2, call_timeout=SHORT)
    assert pool.ask("echo", 0).result() == 0
    assert pool.spool is not None
    stopping = pool.ask("stop_with_the_lock", pool.spool / "state", "one")
    until(lambda: "stops" in folder.entries())
    assert [pool.ask("echo", number).result() for number in range(3)] == [0, 1, 2]
    assert stopping.result() == "one"


def test_a_call_that_hangs_again_and_again_is_set_aside_and_tried_again_by_the_next_pool(
    make: Callable[..., AskingPool], folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(call_timeout=SHORT)
    hanging = pool.ask("hang_once", "one")
    assert pool.ask("echo", 1).result() == 1
    why = f"SIGKILL (it finished no call in {SHORT:g} s); answer()"
    assert texts(caplog) == [f"{why} is run again", f"{why} is set aside"]
    assert len(set_aside_files(folder.spools)) == 1
    assert pool.stop(SOON) == 0
    folder.allow("one")
    second = make()
    assert second.adopt() == 1
    assert hanging.result() == "one"
    assert set_aside_files(folder.spools) == []


@pytest.mark.parametrize("method", METHODS)
def test_a_call_that_had_no_memory_is_run_again_by_another_worker(
    make: Callable[..., AskingPool], folder: Folder, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    pool = make(method=method)
    needing = pool.ask("need_memory_once", "one")
    assert needing.result() == str(1 << 31)
    first, second = folder.pids("needs memory for one")
    assert first != second
    assert texts(caplog) == ["exit code 70 (it had no memory left); answer() is run again"]


def test_a_worker_that_works_in_time_is_left_alone(make: Callable[..., AskingPool], folder: Folder) -> None:
    pool = make(call_timeout=SHORT)
    for number in range(400):  # together they take longer than one may
        pool.submit("write_slowly", number)
    until(lambda: pool.pending == 0)
    assert len(folder.pids("built")) == 1
