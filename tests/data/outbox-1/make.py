"""Makes outboxes as commit d64b534 left them: schema 1 of the ledger, bodies in it, journal format 01.

It was run with that commit's ``src`` on PYTHONPATH: ``python make.py FOLDER``. Each outbox is in a .tar.gz
here: ``closed`` after a relay that ended, ``killed`` after one that was killed, whose ledger has a log.

At ``trove``: events 0 and 1 delivered, 2 dead, 3 to 7 pending. At ``datadog``, which isn't configured any
more since event 6: 0 delivered, 1 dead, 2 to 5 pending. Events 8 to 10 are in the journal, with a torn record
of another behind them.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
from pathlib import Path

from keepline.event import Event
from keepline.outbox.batch import read
from keepline.outbox.delivery import DeliveryState, Ended
from keepline.outbox.files import OutboxFiles
from keepline.outbox.journal import Producer
from keepline.outbox.ledger import Ledger
from keepline.outbox.segments import segment_numbers, segment_path

DELIVERED, DEAD = DeliveryState.DELIVERED, DeliveryState.DEAD


def event(number: int) -> Event:
    body = json.dumps({"job": {"name": f"job {number}"}, "run": {"runId": f"run {number % 3}"}})
    return Event(body.encode(), f"run {number % 3}", "START", "tests", f"job {number}")


def append(files: OutboxFiles, *numbers: int) -> None:
    producer = Producer(files, segment_bytes=1 << 24, lock_timeout=5.0)
    for number in numbers:
        producer.append(event(number))
    producer.close()


def take_in(files: OutboxFiles, ledger: Ledger, *names: str) -> dict[str, int]:
    ids = ledger.register(names, "open")
    (number,) = segment_numbers(files)
    ledger.take_in(read(files, number, ledger.position(number), limit=100), list(ids.values()))
    return ids


def fill(files: OutboxFiles) -> Ledger:
    append(files, *range(6))
    ledger = Ledger(files)
    ids = take_in(files, ledger, "trove", "datadog")
    trove, datadog = ids["trove"], ids["datadog"]
    ledger.end([Ended(trove, 1, DELIVERED, 1, "201"), Ended(trove, 2, DELIVERED, 3, "201")], 1.7e9)
    ledger.end([Ended(datadog, 1, DELIVERED, 1, "202")], 1.7e9)
    ledger.end([Ended(trove, 3, DEAD, 1, "400 no"), Ended(datadog, 2, DEAD, 2, "413 large")], 1.7e9)
    append(files, 6, 7)
    take_in(files, ledger, "trove")
    append(files, *range(8, 12))
    path = segment_path(files, segment_numbers(files)[0])
    os.truncate(path, path.stat().st_size - 20)
    return ledger


def pack(files: OutboxFiles, path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(files.folder, "outbox")


def main(folder: Path) -> None:
    for name in ("closed", "killed"):
        files = OutboxFiles(folder / name)
        ledger = fill(files)
        if name == "closed":
            ledger.close()
        pack(files, folder / f"{name}.tar.gz")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
