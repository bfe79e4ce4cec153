"""Commands on their way to the relay: appended to the journal, and seen to be applied."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from keepline.outbox.commands import Command, to_json
from keepline.outbox.files import OutboxFiles
from keepline.outbox.journal import Producer
from keepline.outbox.record import encode_command
from keepline.outbox.segments import segment_numbers, segment_path
from keepline.outbox.snapshot import entries_from
from keepline.outbox.sqlite import reading
from keepline.tuning import Tuning


class Asked(NamedTuple):
    """Where the last command stands.

    Args:
        segment: in which segment.
        end: offset of the byte after it.
    """

    segment: int
    end: int


def ask(files: OutboxFiles, commands: Iterable[Command], tuning: Tuning) -> Asked | None:
    """Append commands, behind all that was appended before.

    Args:
        files: the outbox.
        commands: in the order in which they are to be applied.
        tuning: bounds.

    Returns:
        where the last one stands; ``None`` when there was none.

    Raises:
        OutboxUnavailable: they can't be written.
        OutboxLocked: a lock was held for too long.
    """
    asked = None
    with _producer(files, tuning) as producer:
        for command in commands:
            asked = _append(files, producer, to_json(command))
    return asked


@contextmanager
def _producer(files: OutboxFiles, tuning: Tuning) -> Iterator[Producer]:
    # Without a bound of bytes: what makes room in a full outbox has to get in.
    producer = Producer(files, segment_bytes=int(tuning.segment_bytes), lock_timeout=tuning.lock_timeout)
    try:
        yield producer
    finally:
        producer.close()


def _append(files: OutboxFiles, producer: Producer, body: bytes) -> Asked:
    before = {number: _size(files, number) for number in segment_numbers(files)}
    appended_at = time.time_ns()
    producer.put(encode_command(body, appended_at))
    # Others append at the same time, so that it isn't known where it has come to stand.
    newest = max(before, default=0)
    candidates = {number for number in segment_numbers(files) if number >= newest} | {newest}
    for number in sorted(candidates):
        for entries in entries_from(files, number, before.get(number, 0)):
            for one in entries:
                if one.is_command and one.appended_at == appended_at and one.body == body:
                    return Asked(number, one.end)
    # It went into a segment that was created, taken in and archived between the looks.
    return Asked(0, 0)


def _size(files: OutboxFiles, number: int) -> int:
    with suppress(FileNotFoundError):
        return segment_path(files, number).stat().st_size
    return 0


def is_applied(files: OutboxFiles, asked: Asked) -> bool:
    """Whether the relay has applied a command, and all that were appended before it.

    Args:
        files: the outbox.
        asked: where it stands.

    Raises:
        OutboxUnavailable: the outbox can't be read.
        OutboxLocked: another process holds the ledger.
        OutboxDamaged: the ledger isn't one.
    """
    # A segment leaves the journal when all of it was taken in, and one day the ledger forgets its mark.
    if asked.segment not in segment_numbers(files):
        return True
    with reading(files) as connection:
        if connection is None:
            return False
        mark = connection.execute("SELECT position FROM mark WHERE segment = ?", (asked.segment,)).get
    return int(mark or 0) >= asked.end
