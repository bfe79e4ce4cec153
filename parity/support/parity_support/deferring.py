"""An operator that waits in the triggerer, for a trigger that fires or one that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from parity_support.versions import BaseOperator, BaseTrigger, TriggerEvent


class SoonTrigger(BaseTrigger):
    """Fires soon, or fails."""

    def __init__(self, fail: bool) -> None:
        super().__init__()
        self.fail = fail

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.SoonTrigger", {"fail": self.fail}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        # Long enough for the scheduler to know that the task's process has ended, see DAG `reschedule`.
        await asyncio.sleep(15)
        if self.fail:
            raise ValueError("the trigger failed: ∅")
        yield TriggerEvent({"größe": 7})


class DeferringOperator(BaseOperator):
    """Defers so many times, one after another."""

    def __init__(self, *, times: int = 1, fail: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.times = times
        self.fail = fail

    def execute(self, context: Any, event: Any = None, done: int = 0) -> Any:
        if done < self.times:
            self.defer(trigger=SoonTrigger(self.fail), method_name="execute", kwargs={"done": done + 1})
        return event
