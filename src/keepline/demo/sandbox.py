"""A throwaway Airflow, driven from outside: its processes, its DAG runs, its death.

For the demo and for tests. It imports no Airflow: the interpreter of an environment with Airflow is given, so
that one program can drive several versions.
"""

from __future__ import annotations

import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import psutil

from keepline.demo import processes
from keepline.demo.airflow_home import AirflowHome, SandboxError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Sandbox", "SandboxError"]

_LOOK_EVERY = 0.1  # seconds; Airflow tells nobody when a run has ended
_START_SECONDS = 60.0


class Sandbox(AirflowHome):
    """An Airflow that lives as long as a ``with`` block; no process of it stays behind.

    Nothing parses DAG files once :meth:`prepare` has serialised them. No port is listened on but the API
    server's, and that one on the loopback. The arguments are those of :class:`AirflowHome`.
    """

    _scheduler: psutil.Popen | None = None
    _api_server: psutil.Popen | None = None
    _sessions: frozenset[int] = frozenset()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start_scheduler(self) -> psutil.Popen:
        """Start the scheduler; it takes up work 1 to 2 s later. Its log is ``logs/scheduler.log``."""
        self._scheduler = self._start("scheduler", "--skip-serve-logs")
        return self._scheduler

    def start_api_server(self) -> psutil.Popen:
        """Start Airflow 3's API server, which its tasks report to, and wait until it answers.

        Raises:
            SandboxError: it ended, or doesn't answer.
        """
        self._api_server = server = self._start("api-server")
        deadline = time.monotonic() + _START_SECONDS
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the user has
        while True:
            try:
                with direct.open(f"{self.api_url}/api/v2/version", timeout=5):
                    return server
            except OSError:
                self._still_there(server, "api-server")
            if time.monotonic() > deadline:
                raise SandboxError(
                    f"the API server doesn't answer at {self.api_url}\n{self.log('api-server')}"
                )
            time.sleep(_LOOK_EVERY)

    def wait_runs(
        self,
        dag_id: str,
        count: int,
        *,
        state: str = "success",
        timeout: float,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Wait until a DAG has so many runs in a state.

        Args:
            dag_id: the DAG.
            count: at least so many.
            state: which.
            timeout: longest wait, seconds.
            on_progress: called with their number, as often as it was looked at.

        Raises:
            SandboxError: they aren't in time, or there is no scheduler any more.
        """
        deadline = time.monotonic() + timeout
        while True:
            states = self.run_states(dag_id)
            if on_progress is not None:
                on_progress(states.get(state, 0))
            if states.get(state, 0) >= count:
                return
            if self._scheduler is not None:
                self._still_there(self._scheduler, "scheduler")
            if time.monotonic() > deadline:
                raise SandboxError(
                    f"not {count} runs of {dag_id} in state {state} within {timeout:g} s, but {states}\n"
                    f"{self.log('scheduler')}"
                )
            time.sleep(_LOOK_EVERY)

    def terminate_scheduler(self, timeout: float) -> float:
        """Stop the scheduler as an administrator would, with SIGTERM to its process alone.

        Args:
            timeout: longest wait, seconds.

        Returns:
            Seconds until it had ended.

        Raises:
            SandboxError: it hasn't ended in time; it is left as it is.
        """
        scheduler = self._running_scheduler()
        began = time.monotonic()
        scheduler.send_signal(signal.SIGTERM)
        try:
            scheduler.wait(timeout)
        except psutil.TimeoutExpired:
            raise SandboxError(f"no end {timeout:g} s after SIGTERM\n{self.log('scheduler')}") from None
        self._scheduler = None
        return time.monotonic() - began

    def kill_tree(self) -> None:
        """Kill the scheduler and its children with SIGKILL; a relay, which is nobody's child, lives on."""
        scheduler = self._running_scheduler()
        # The scheduler first, or it would start others in place of the children; they keep its session.
        processes.end([scheduler], grace=0)
        processes.end(self.processes(of=scheduler), grace=0)
        self._scheduler = None

    def processes(self, *, of: psutil.Process | None = None) -> list[psutil.Process]:
        """Give the living processes of this sandbox, orphans included; a relay isn't one of them.

        Args:
            of: a scheduler or API server, to get its processes alone, even when it has ended.
        """
        found = processes.by_session(self._sessions)
        # The number of a session without a process may come to mean another one's.
        self._sessions = frozenset(found)
        return [one for head, members in found.items() if of is None or of.pid == head for one in members]

    def pool_workers(self) -> list[psutil.Process]:
        """Give the workers of the OpenLineage listener's pool, upstream's or Keepline's.

        Forked ones are the scheduler's children that bear its own title, since the executor's have titles of
        their own; one that Keepline started in place of a dead one runs its pool's module.
        """
        scheduler = self._running_scheduler()
        title = scheduler.cmdline()
        return [one for one in scheduler.children() if processes.alive(one) and _is_pool_worker(one, title)]

    def close(self) -> None:
        """End every process that came from this sandbox, a relay too. May be called again.

        Raises:
            TimeoutError: one is there even so.
        """
        # The heads first: they end their children in good order. Some versions' schedulers never do.
        heads = [one for one in (self._scheduler, self._api_server) if one is not None]
        self._scheduler = self._api_server = None
        processes.end(heads, grace=5)
        processes.end(self.processes(), grace=0)
        processes.end(processes.with_variable("AIRFLOW_HOME", str(self.home)), grace=2)

    def _start(self, name: str, *options: str) -> psutil.Popen:
        with (self.home / "logs" / f"{name}.log").open("ab") as log:
            process = psutil.Popen(
                [str(self.python), "-m", "airflow", name, *options],
                env=self.env,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # by which its children are found, also when their parent has died
            )
        self._sessions |= {process.pid}
        return process

    def _running_scheduler(self) -> psutil.Popen:
        if self._scheduler is None:
            raise SandboxError("no scheduler was started, or it was ended; call start_scheduler() first")
        return self._scheduler

    def _still_there(self, process: psutil.Popen, name: str) -> None:
        if (status := process.poll()) is not None:
            raise SandboxError(f"the {name} has ended with {status}\n{self.log(name)}")


def _is_pool_worker(process: psutil.Process, title: list[str]) -> bool:
    command: list[str] = process.cmdline()
    return command == title or any("keepline.pool." in part for part in command)
