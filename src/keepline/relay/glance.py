"""An outbox and its relay at a glance: quick, however much there is, and nothing is written.

For who looks again and again: ``keepline check`` and Airflow's metrics.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keepline.errors import KeeplineError, RelayError
from keepline.outbox import refusals
from keepline.outbox.dead import dead_since
from keepline.outbox.files import OutboxFiles, unavailable
from keepline.outbox.status import DestinationStatus, OutboxStatus, read_status
from keepline.pool.looking import look_into
from keepline.relay.lock import running

_COUNTED = 20_000
"""Events that wait to be taken in are counted up to here, the rest is estimated."""


@dataclass(frozen=True)
class Glance:
    """What was seen.

    Args:
        folder: of the outbox.
        at: s since 1970, when it was looked at.
        outbox: what it holds.
        dead_lately: deliveries to configured destinations that were given up since the time asked for.
        refused_at: s since 1970, when an append was refused last; ``None`` for never.
        written_at: s since 1970, when the ledger was written last; ``None`` where there is none.
        free_bytes: what is left on its disk.
        relay: the relay's process, 0 for one that is just starting; ``None`` when none runs.
        relay_since: s since 1970, when that started.
        calls: what hooks have submitted and no worker has emitted; ``None`` where nobody has asked.
        set_aside: what no worker could emit; ``None`` where nobody has asked.
    """

    folder: str
    at: float
    outbox: OutboxStatus
    dead_lately: int
    refused_at: float | None
    written_at: float | None
    free_bytes: int
    relay: int | None
    relay_since: float | None
    calls: int | None = None
    set_aside: int | None = None

    @property
    def pending(self) -> int:
        """Deliveries to configured destinations that wait; an event not taken in yet counts for each."""
        active = [one for one in self.outbox.destinations if one.active]
        return self.outbox.waiting * max(len(active), 1) + sum(one.pending for one in active)

    @property
    def oldest_age(self) -> float | None:
        """Seconds since the oldest event that waits was appended; ``None`` when nothing waits."""
        ages = [one.oldest_age for one in self.outbox.destinations if one.active]
        return max((age for age in (*ages, self.outbox.waiting_age) if age is not None), default=None)

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Glance:
        """What :meth:`to_json` has given.

        Args:
            text: the JSON document.

        Raises:
            ValueError: it isn't one.
            TypeError: it is another's.
        """
        told: dict[str, Any] = json.loads(text)
        outbox = told.pop("outbox")
        destinations = tuple(DestinationStatus(**one) for one in outbox.pop("destinations"))
        outbox["damaged"] = tuple(outbox["damaged"])
        return cls(outbox=OutboxStatus(destinations, **outbox), **told)


def look(files: OutboxFiles, *, since: float = 0.0, spools: Path | None = None) -> Glance:
    """Look at an outbox; one that isn't there is empty.

    Args:
        files: the outbox.
        since: from when on dead letters are new, s since 1970.
        spools: the folder of the spools of Airflow's listener, to look there too.

    Raises:
        OutboxUnavailable: it can't be read.
        OutboxLocked: another process holds its ledger.
        OutboxDamaged: the ledger isn't one.
    """
    outbox = read_status(files, most=_COUNTED)
    relay: int | None
    relay, relay_since = None, None
    try:
        info = running(files)
        if info is not None:
            relay, relay_since = info.pid, info.started_at
    except RelayError:
        relay = 0
    spooled = None if spools is None else look_into(spools)
    return Glance(
        folder=str(files.folder),
        at=time.time(),
        outbox=outbox,
        dead_lately=dead_since(files, since) if any(one.dead for one in outbox.destinations) else 0,
        refused_at=refusals.last(files),
        written_at=_written_at(files),
        free_bytes=_free_bytes(files.folder),
        relay=relay,
        relay_since=relay_since,
        calls=None if spooled is None else spooled.waiting,
        set_aside=None if spooled is None else spooled.set_aside,
    )


def _written_at(files: OutboxFiles) -> float | None:
    times = []
    for path in (files.ledger, files.ledger.with_name(files.ledger.name + "-wal")):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times, default=None)


def _free_bytes(folder: Path) -> int:
    for path in (folder, *folder.parents):
        try:
            state = os.statvfs(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unavailable("look at the disk of", path, error) from error
        return state.f_bavail * state.f_frsize
    return 0


def main() -> None:
    """Print a glance, for another process.

    The arguments are the outbox's folder, that of the spools, and how many seconds it may take.

    Where it can't be looked at, the document says why instead.
    """
    # Should who has started this be killed meanwhile, this must not outlive it for long.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[3]))
    try:
        print(look(OutboxFiles(Path(sys.argv[1])), spools=Path(sys.argv[2])).to_json())
    except KeeplineError as error:
        print(json.dumps({"error": str(error)}))
