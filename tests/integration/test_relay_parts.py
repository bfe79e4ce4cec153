"""The relay's parts by themselves, on real ledgers and files: window, inbound, trouble, logs, masking."""

from __future__ import annotations

import json
import logging
import random
from collections import defaultdict
from collections.abc import Container, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.support_outbox import pending_at
from tests.support_relay import Settings, append, leg, transport

from keepline.config import Leg
from keepline.destinations.blocking import blocking
from keepline.destinations.masking import excerpt, secrets_in_url, secrets_of
from keepline.event import Event
from keepline.outbox.delivery import DeliveryState, Ended, Pending
from keepline.outbox.files import OutboxFiles
from keepline.outbox.journal import Producer
from keepline.outbox.ledger import Ledger
from keepline.outbox.reader import read_next
from keepline.outbox.segments import segment_numbers
from keepline.outbox.waiting import Waiting
from keepline.relay import trouble
from keepline.relay import window as window_module
from keepline.relay.inbound import Inbound
from keepline.relay.logs import MaskingFormatter
from keepline.relay.window import Window
from keepline.tuning import Tuning

pytestmark = pytest.mark.timeout(60)

KEY = "s3cr3t-key-of-nobody"


@pytest.fixture
def ledger(outbox: Path) -> Iterator[Ledger]:
    one = Ledger(OutboxFiles(outbox))
    yield one
    one.close()


def take_in(outbox: Path, ledger: Ledger, **tuning: int) -> int:
    """Take everything in; the id of the one destination that there is."""
    ident = ledger.register(["a"], "open")["a"]
    inbound = Inbound(OutboxFiles(outbox), ledger, Tuning(**tuning), [ident])
    while inbound.take_in() is not None:
        inbound.tidy()
    inbound.tidy()
    return ident


# Window


def drain(window: Window, chance: random.Random, *, at_once: int) -> list[Pending]:
    """Take from a window as a lane does, with answers in any order, some of them to be tried again."""
    ended: list[Pending] = []
    given: list[Pending] = []
    aside: list[Pending] = []
    while not window.empty or given:
        while len(given) < at_once and (one := window.take(far=chance.random() < 0.2)) is not None:
            assert one.run_key not in {each.run_key for each in (*given, *aside) if each.run_key}
            given.append(one)
        if aside and (not given or chance.random() < 0.2):
            back = window.bring_back(aside.pop(chance.randrange(len(aside))))
            assert back is not None
            given.append(back)
        if not given:
            continue
        one = given.pop(chance.randrange(len(given)))
        if chance.random() < 0.2:
            window.put_back(one)
        elif chance.random() < 0.2:
            window.set_aside(one)
            aside.append(one)
        else:
            window.end(one)
            ended.append(one)
            if chance.random() < 0.01:
                # None of what it held counts any more; the ledger knows of no end yet.
                window.rewind()
                aside.clear()
    return ended


@pytest.mark.parametrize("seed", range(5))
def test_a_window_gives_everything_once_and_each_run_in_its_order(
    seed: int, outbox: Path, ledger: Ledger
) -> None:
    chance = random.Random(seed)
    append(outbox, map(str, range(1500)), run=lambda n: chance.choice(["", *(f"run {k}" for k in range(40))]))
    ident = take_in(outbox, ledger)
    window = Window(Waiting(ledger, ident), size=64)
    ended = drain(window, chance, at_once=8)
    assert sorted(one.event for one in ended) == list(range(1, 1501))
    by_run = defaultdict(list)
    for one in ended:
        by_run[one.run_key].append(one.event)
    assert all(events == sorted(events) for run, events in by_run.items() if run)
    assert window.take() is None


class Counting(Waiting):
    """Counts the bodies that are read."""

    read = 0
    bytes = 0

    def beyond(
        self, after: int, limit: int, most_bytes: int, without: Container[str] = ()
    ) -> tuple[list[Pending], bool]:
        rows, more = super().beyond(after, limit, most_bytes, without)
        self.read += sum(bool(row.body) for row in rows)
        self.bytes += sum(len(row.body or b"") for row in rows)
        return rows, more


def take_all(window: Window) -> list[Pending]:
    """Take what there is to take, however often one has to ask."""
    taken = []
    while (one := window.take()) is not None or window.unread:
        if one is not None:
            taken.append(one)
    return taken


def test_a_window_holds_a_bounded_number_and_a_bounded_size(outbox: Path, ledger: Ledger) -> None:
    append(outbox, map(str, range(1000)), size=100_000)
    ident = take_in(outbox, ledger)
    few = Counting(ledger, ident)
    assert len(take_all(Window(few, size=70))) == 70
    assert few.read == 70
    many = Counting(ledger, ident)
    taken = take_all(Window(many, size=1000))
    assert many.read == len(taken)
    assert 70 < len(taken) < 85
    # 8 MB, and the one event with which they are reached.
    assert many.bytes <= 8 * 1024 * 1024 + 101_000


@pytest.mark.parametrize("size", [0, 20_000])
def test_a_blocked_run_keeps_no_other_out_however_many_of_its_events_wait(
    size: int, outbox: Path, ledger: Ledger
) -> None:
    append(outbox, map(str, range(3000)), run=lambda n: "blocked" if n % 3000 < 2500 else str(n), size=size)
    ident = take_in(outbox, ledger)
    waiting = Counting(ledger, ident)
    window = Window(waiting, size=64)
    first = window.take()
    assert first is not None
    assert first.run_key == "blocked"
    others = 0
    while (one := window.take()) is not None or window.unread:
        if one is not None:
            assert one.run_key != "blocked"
            window.end(one)
            others += 1
    assert others == 500
    # What is passed over isn't read either.
    assert waiting.read < 700
    window.end(first)
    events = [first.event]
    while (one := window.take()) is not None:
        events.append(one.event)
        window.end(one)
    assert events == list(range(1, 2501))
    assert window.empty


def test_an_event_set_aside_holds_nothing_and_its_run_goes_on_in_order_behind_it(
    outbox: Path, ledger: Ledger
) -> None:
    append(outbox, map(str, range(3000)), run=lambda n: f"run {n % 3}", size=10_000)
    ident = take_in(outbox, ledger)
    window = Window(Waiting(ledger, ident), size=64)
    aside = [window.take() for _ in range(3)]
    for one in aside:
        assert one is not None
        window.set_aside(one)
    assert take_all(window) == []
    assert not window.empty
    ended: dict[str, list[int]] = defaultdict(list)
    for one in aside:
        assert one is not None
        back = window.bring_back(one)
        assert back is not None
        assert back.body == one.body
        window.end(back)
        ended[back.run_key].append(back.event)
    while not window.empty:
        for one in take_all(window):
            window.end(one)
            ended[one.run_key].append(one.event)
    assert ended == {f"run {n}": list(range(n + 1, 3001, 3)) for n in range(3)}


def test_what_is_replayed_is_given_again_and_what_is_under_way_or_unmarked_is_not(
    outbox: Path, ledger: Ledger
) -> None:
    append(outbox, map(str, range(200)), run=lambda n: f"run {n % 4}" if n % 5 else "")
    ident = take_in(outbox, ledger)
    window = Window(Waiting(ledger, ident), size=64)
    under_way = [one for one in (window.take() for _ in range(6)) if one is not None]
    unmarked, under_way, aside = under_way[:2], under_way[2:5], under_way[5]
    for one in unmarked:
        window.end(one)
    window.set_aside(aside)
    window.rewind()
    given: list[int] = []
    waiting = list(under_way)
    while not window.empty:
        for one in (*waiting, *take_all(window)):
            if one not in under_way:
                given.append(one.event)
            window.end(one)
        waiting.clear()
    known = {one.event for one in (*unmarked, *under_way)}
    assert sorted(given) == [event for event in range(1, 201) if event not in known]
    for run in range(4):
        of_run = [event for event in given if (event - 1) % 5 and (event - 1) % 4 == run]
        assert of_run == sorted(of_run)


def test_a_window_learns_of_more_when_it_is_told(outbox: Path, ledger: Ledger) -> None:
    ident = take_in(outbox, ledger)
    window = Window(Waiting(ledger, ident), size=64)
    assert window.take() is None
    assert window.empty
    append(outbox, ["one"])
    take_in(outbox, ledger)
    assert window.take() is None
    window.more(pending_at(ledger, ident, 0, 1))
    assert not window.empty
    one = window.take()
    assert one is not None
    assert not window.empty
    window.end(one)
    assert window.empty


@pytest.mark.parametrize("seed", range(5))
def test_what_a_window_is_told_of_or_reads_is_given_once_and_each_run_in_its_order(
    outbox: Path, ledger: Ledger, seed: int
) -> None:
    chance = random.Random(seed)
    ident = ledger.register(["a"], "open")["a"]
    window = Window(Waiting(ledger, ident), size=64)
    appended = 0
    given: list[Pending] = []
    under_way: list[Pending] = []
    while appended < 2000 or not window.empty:
        if appended < 2000:
            many = chance.choice((1, 5, 60))
            append(outbox, map(str, range(appended, appended + many)), run=lambda n: f"run {n % 7}")
            appended += many
            batch = read_next(OutboxFiles(outbox), ledger.position, limit=1000)
            assert batch is not None
            window.more(ledger.take_in(batch, [ident]))
        while (one := window.take()) is not None:
            given.append(one)
            under_way.append(one)
        chance.shuffle(under_way)
        for one in under_way[: chance.randrange(1, 40)]:
            window.end(one)
            ledger.end([Ended(ident, one.event, DeliveryState.DELIVERED, 1)], 1.0)
            under_way.remove(one)
        if not chance.randrange(20):
            # What ended is marked by now; what is under way goes on.
            window.marked()
            window.rewind()
    assert sorted(one.event for one in given) == list(range(1, appended + 1))
    for run in range(7):
        of_run = [one.event for one in given if one.run_key == f"run {run}"]
        assert of_run == sorted(of_run)
    names = [json.loads(one.body or b"")["job"]["name"] for one in sorted(given)]
    assert names == [str(number) for number in range(appended)]


def test_a_window_that_has_set_much_aside_is_fed_no_more_than_it_reads(
    outbox: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_module, "_MOST_ASIDE", 8)
    ident = take_in(outbox, ledger)
    window = Window(Waiting(ledger, ident), size=64)
    assert window.take() is None
    append(outbox, map(str, range(20)))
    batch = read_next(OutboxFiles(outbox), ledger.position, limit=1000)
    assert batch is not None
    rows = ledger.take_in(batch, [ident])
    for row in rows:
        window.more([row])
        one = window.take()
        if one is not None:
            window.set_aside(one)
    assert not window.empty
    assert len(window._aside) == 8


# Inbound


def test_segments_that_are_done_are_archived_as_they_are_taken_in(outbox: Path, ledger: Ledger) -> None:
    files = OutboxFiles(outbox)
    producer = Producer(files, segment_bytes=1000, lock_timeout=1)
    for number in range(50):
        producer.append(Event(b"{}" + b" " * 200, "r", "START", "tests", str(number)))
    producer.close()
    assert len(segment_numbers(files)) >= 10
    ident = ledger.register(["a"], "open")["a"]
    inbound = Inbound(files, ledger, Tuning(segment_bytes=1000), [ident])
    most = len(segment_numbers(files))
    assert inbound.take_in() is not None
    inbound.tidy()
    assert len(segment_numbers(files)) == most - 1
    while inbound.take_in() is not None:
        inbound.tidy()
    inbound.tidy()
    assert len(segment_numbers(files)) <= 1
    assert len(pending_at(ledger, ident, 0, 100)) == 50
    gone: list[bool] = []
    assert inbound.leave(lambda: gone.append(True))
    assert gone == [True]
    assert segment_numbers(files) == []


def test_what_was_not_taken_in_keeps_the_journal(outbox: Path, ledger: Ledger) -> None:
    ident = take_in(outbox, ledger)
    append(outbox, ["one"])
    inbound = Inbound(OutboxFiles(outbox), ledger, Tuning(), [ident])
    assert not inbound.leave(lambda: pytest.fail("nobody may end now"))
    assert inbound.take_in() is not None
    ledger.end([Ended(ident, 1, DeliveryState.DELIVERED, 1, "HTTP 201")], 1.0)
    assert inbound.leave(lambda: None)


# Trouble


def test_trouble_is_tried_again_ever_less_often_logged_now_and_then_and_its_end_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = 0.0
    monkeypatch.setattr(trouble, "time", SimpleNamespace(monotonic=lambda: clock))
    one = trouble.Trouble("write")
    with caplog.at_level(logging.INFO):
        one.over()
        pauses = []
        for _ in range(40):
            pauses.append(one.again_after(OSError("full")))
            clock += pauses[-1]
        one.over()
        one.over()
    assert pauses[:6] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    assert set(pauses[6:]) == {5.0}
    assert caplog.messages == [*["can't write, and goes on trying: full"] * 3, "can write again"]


# What may be shown


@pytest.mark.parametrize(
    ("params", "secrets"),
    [
        ({"auth": {"type": "api_key", "apiKey": KEY}}, {KEY}),
        (
            {"auth": {"type": "oauth2", "clientId": "an-id-123", "scope": ["read-all"]}},
            {"an-id-123", "read-all"},
        ),
        ({"custom_headers": {"X-Any": KEY, "X-Short": "abc"}}, {KEY}),
        ({"config": {"sasl.password": KEY, "acks": "all", "retries": 3}}, {KEY}),
        ({"url": f"https://me-myself:{KEY}@host/path"}, {"me-myself", KEY}),
        ({"url": "https://host/?a=t%6Fken77&b=plain-value"}, {"t%6Fken77", "token77", "plain-value"}),
        ({"url": "http://[::1"}, set()),
        ({"url": "https://host/path", "endpoint": "api/v1/lineage", "timeout": 5}, set()),
    ],
    ids=str,
)
def test_secrets_are_known_by_their_names_and_by_their_place_in_an_address(
    params: dict[str, object], secrets: set[str]
) -> None:
    assert secrets_of(params) == secrets


def test_an_address_shows_what_it_hides() -> None:
    assert secrets_in_url("no address at all") == frozenset()
    assert secrets_in_url("proxy-user:proxy-pass@host:3128") == frozenset()
    assert secrets_in_url("http://proxy-user:proxy-pass@host:3128") == {"proxy-user", "proxy-pass"}


def test_an_excerpt_hides_the_longer_of_two_secrets_first() -> None:
    assert excerpt("key-of-mine-2 and key-of-mine", {"key-of-mine", "key-of-mine-2"}) == "*** and ***"


def test_what_a_relay_logs_shows_no_key_in_a_traceback_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DD_API_KEY", "another-key-of-nobody")
    formatter = MaskingFormatter("%(levelname)s %(message)s")
    legs = {"a": leg("http://127.0.0.1:1", auth={"type": "api_key", "apiKey": KEY})}
    formatter.hide(Settings.from_dict(transport(Path("/x"), legs)))
    try:
        raise RuntimeError(f"can't ask http://host/?key={KEY}")
    except RuntimeError as error:
        caught = (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", 40, "x", 1, "with %s and %s", (KEY, "another-key-of-nobody"), caught)
    text = formatter.format(record)
    assert text.startswith("ERROR with *** and ***\nTraceback")
    assert "RuntimeError: can't ask http://host/?key=***" in text
    assert KEY not in text


# Settings of driven transports


def test_transports_that_would_only_queue_are_made_to_answer_for_each_event() -> None:
    once = {"total": 0, "status_forcelist": []}
    nested = {
        "transports": {
            "h": {"type": "async_http", "url": "u", "retry": {"total": 9}},
            "k": {"type": "kafka", "flush": False, "config": {"type": "x"}},
            "t": {"type": "transform", "transport": {"type": "datadog", "apiKey": "k"}},
            "o": {"type": "my.own.Transport", "auth": {"type": "jwt"}},
        },
        "list": [{"type": "http"}, "text", 7],
    }
    changed = blocking(Leg("c", "composite", 3, nested))
    assert (changed.name, changed.kind, changed.priority) == ("c", "composite", 3)
    assert changed.params == {
        "transports": {
            "h": {"type": "http", "url": "u", "retry": once},
            "k": {"type": "kafka", "flush": True, "config": {"type": "x", "message.timeout.ms": 45_000}},
            "t": {
                "type": "transform",
                "transport": {"type": "datadog", "apiKey": "k", "retry": once, "async_transport_rules": {}},
            },
            "o": {"type": "my.own.Transport", "auth": {"type": "jwt"}},
        },
        "list": [{"type": "http", "retry": once}, "text", 7],
        "continue_on_failure": False,
    }
    assert blocking(Leg("a", "async_http", 0, {"url": "u"})).kind == "http"
    assert nested["transports"]["h"]["type"] == "async_http"  # type: ignore[index]


@pytest.mark.parametrize("key", ["message.timeout.ms", "delivery.timeout.ms"])
def test_how_long_kafka_s_client_tries_is_the_user_s_to_say(key: str) -> None:
    params = {"config": {key: 7}, "topic": "t"}
    assert blocking(Leg("k", "kafka", 0, params)).params["config"] == {key: 7}
