from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keepline.errors import EventError
from keepline.event import Event
from keepline.outbox import record
from keepline.outbox.record import MARK, Damage, Entry, encode, scan

BODY = b'{"run": {"runId": "1"}}'


def event(body: bytes = BODY, run_key: str = "1") -> Event:
    return Event(body, run_key, "START", "namespace", "job")


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
events = st.builds(Event, st.binary(max_size=200), texts, texts, texts, texts)
whole = st.builds(encode, events, st.integers(0, 2**63 - 1))

# What a torn record lacks is never what comes next, which would make it whole: it lacks a byte at its end
# that no garbage holds and nothing else begins with.
LAST = b"\x55"


def _torn(event: Event, part: float) -> bytes:
    data = encode(replace(event, body=event.body + LAST), 1)
    return data[: int(len(data) * part)]


def _garbage(data: bytes) -> bytes:
    return data.replace(LAST, b"")


torn = st.builds(_torn, events, st.floats(0, 0.999))


def _flip(data: bytes, at: float, bit: int) -> bytes:
    index = int(len(data) * at)
    return data[:index] + bytes([data[index] ^ 1 << bit]) + data[index + 1 :]


flipped = st.builds(_flip, whole, st.floats(0, 0.999), st.integers(0, 7))
garbage = st.one_of(
    st.builds(_garbage, st.binary(max_size=60)),
    st.builds(lambda many: MARK * many, st.integers(1, 5)),
    st.builds(lambda rest: MARK + _garbage(rest), st.binary(max_size=30)),
)
stretches = st.lists(
    st.one_of(
        st.tuples(st.just(True), whole),
        st.tuples(st.just(False), torn),
        st.tuples(st.just(False), flipped),
        st.tuples(st.just(False), garbage),
    ),
    max_size=12,
)


def found_in_steps(data: bytes, cuts: list[int]) -> list[Entry | Damage]:
    """What a reader finds that looks again whenever the segment has grown, each time from where it got to."""
    found: list[Entry | Damage] = []
    position = 0
    for size in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        if size > position:
            found += scan(data[position:size], position)
            position = found[-1].end if found else 0
    return found


def test_a_record_gives_back_the_event_and_the_time_of_its_appending() -> None:
    data = encode(event(), 1_700_000_000_000_000_000)

    (entry,) = scan(data)
    assert entry.event == event()
    assert entry[:3] == (0, len(data), 1_700_000_000_000_000_000)
    assert not entry.is_command


@given(stretches, st.lists(st.integers(0, 5000), max_size=6))
@settings(max_examples=500, deadline=None)
@example([(False, MARK), (True, encode(event(), 1))], [2])
@example([(False, encode(event(), 1)[:-1]), (True, encode(event(), 2))], [])
@example([(True, encode(event(MARK * 3), 1))], [20])
def test_every_whole_record_is_found_in_order_and_nothing_else_whatever_lies_between(
    written: list[tuple[bool, bytes]], cuts: list[int]
) -> None:
    data = b"".join(stretch for _, stretch in written)
    expected = []
    position = 0
    for is_whole, stretch in written:
        if is_whole:
            expected.append((position, stretch))
        position += len(stretch)

    found = found_in_steps(data, cuts)

    entries = [one for one in found if isinstance(one, Entry)]
    assert [(one.position, data[one.position : one.end]) for one in entries] == expected
    assert [encode(one.event, one.appended_at) for one in entries] == [stretch for _, stretch in expected]


@given(stretches, st.lists(st.integers(0, 5000), max_size=6))
@settings(deadline=None)
def test_what_is_skipped_and_what_is_found_leave_no_byte_out_up_to_the_last_record(
    written: list[tuple[bool, bytes]], cuts: list[int]
) -> None:
    found = found_in_steps(b"".join(stretch for _, stretch in written), cuts)

    assert [one.position for one in found[:1]] in ([], [0])
    assert all(before.end == after.position for before, after in pairwise(found))
    assert not any(isinstance(one, Damage) for one in found[-1:])


def test_a_record_that_is_still_being_written_is_not_reported_as_damage() -> None:
    first, second = encode(event(), 1), encode(event(), 2)

    assert [one.end for one in scan(first + second[:-1])] == [len(first)]


def test_a_record_whose_texts_are_longer_than_itself_is_none() -> None:
    content = struct.pack("<IQBHHH", 5, 1, 255, 0, 0, 0) + b"short"

    assert list(scan(MARK + struct.pack("<I", zlib.crc32(content)) + content)) == []


def test_texts_longer_than_a_record_can_hold_are_cut_and_the_event_stays_whole() -> None:
    data = encode(event(run_key="ü" * 70_000), 1)

    (entry,) = scan(data)

    assert isinstance(entry, Entry)
    assert entry.event.body == BODY
    assert entry.event.run_key.startswith("ü" * 30_000)


def test_an_event_too_large_for_any_reader_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MAX_RECORD_BYTES", 1000)

    encode(event(b"x" * 900), 1)
    with pytest.raises(EventError, match="1000 bytes is too large"):
        encode(event(b"x" * 1000), 1)


def test_an_event_of_fifty_megabytes_is_a_record_like_any_other() -> None:
    body = b"x" * 50_000_000

    (entry,) = scan(encode(event(body), 1))

    assert isinstance(entry, Entry)
    assert entry.event.body == body
