"""Emit an event while Airflow's metrics fail."""

from __future__ import annotations

from typing import Any

from probe import argument, give, listener_manager, run


class Broken:
    """Airflow's Stats, out of order in one way."""

    def __init__(self, stats: Any, how: str) -> None:
        self.stats = stats
        self.how = how

    def __getattr__(self, name: str) -> Any:
        return self.timer if name == "timer" else self.fail

    def timer(self, *_: object, **__: object) -> Broken:
        if self.how == "when it is made":
            self.fail()
        return self

    def fail(self, *_: object, **__: object) -> None:
        raise ValueError(f"Missing required variables for metric, {self.how}")

    def __enter__(self) -> None:
        if self.how == "when it begins":
            self.fail()

    def __exit__(self, *_: object) -> None:
        if self.how == "when it ends":
            self.fail()


def main() -> None:
    from airflow.providers.openlineage.plugins import adapter
    from openlineage.client.event_v2 import Job, Run, RunEvent, RunState

    adapter.Stats = Broken(adapter.Stats, argument(1))  # before plugins are loaded, as Airflow's own would be
    listener_manager()
    event = RunEvent(
        eventTime="2026-01-01T00:00:00Z",
        producer="https://example.com",
        run=Run(runId="01941f29-7c00-7000-8000-000000000000"),
        job=Job(namespace="n", name=argument(1)),
        eventType=RunState.START,
    )
    emitter = adapter.OpenLineageAdapter()
    emitter.emit(event)
    emitter.get_or_create_openlineage_client().close(30)
    give(None)


if __name__ == "__main__":
    run(main)
