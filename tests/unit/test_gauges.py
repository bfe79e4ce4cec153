from __future__ import annotations

from dataclasses import replace
from typing import Any

from keepline.airflow.gauges import Gauge, Gauges, of_no_outbox, of_outbox, of_pool
from keepline.outbox.status import DestinationStatus, OutboxStatus
from keepline.pool import Pool
from keepline.relay.glance import Glance

ONE = DestinationStatus("Größe.eu/1", True, "paused", "401", 0.0, 3, 7.0, 10, 2, 0, "401", 1.0)
ORPHAN = replace(ONE, name="gone", active=False)
SEEN = Glance(
    "/outbox", 100.0, OutboxStatus((ONE, ORPHAN), 1, 5.0, 4, 1000), 2, None, 90.0, 10**9, 17, 50.0, 6, 1
)


class Sent:
    """What was sent, as it was."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, ...]] = []

    def __call__(self, name: str, value: float, **more: Any) -> None:
        self.all.append((name, value, more))


def test_an_outbox_tells_of_itself_its_relay_and_the_destinations_that_are_configured() -> None:
    assert {(one.name, one.destination): one.value for one in of_outbox(SEEN)} == {
        ("outbox.readable", ""): 1,
        ("outbox.pending", ""): 4,
        ("outbox.waiting", ""): 1,
        ("outbox.oldest_age", ""): 7.0,
        ("outbox.dead", ""): 2,
        ("outbox.delivered", ""): 10,
        ("outbox.refused", ""): 4,
        ("outbox.damaged", ""): 0,
        ("outbox.bytes", ""): 1000,
        ("outbox.free_bytes", ""): 10**9,
        ("relay.alive", ""): 1,
        ("pool.waiting", ""): 6,
        ("pool.set_aside", ""): 1,
        ("destination.state", "Größe.eu/1"): 2,
        ("destination.pending", "Größe.eu/1"): 3,
        ("destination.oldest_age", "Größe.eu/1"): 7.0,
        ("destination.delivered", "Größe.eu/1"): 10,
        ("destination.dead", "Größe.eu/1"): 2,
    }


def test_a_pool_that_nobody_has_needed_yet_has_no_calls() -> None:
    nothing = [Gauge("pool.workers", 0), Gauge("pool.refused", 0)]
    assert list(of_pool(None)) == list(of_pool(Pool(dict))) == nothing


def test_a_destination_is_a_tag_or_the_last_part_of_the_name() -> None:
    tagged, dotted = Sent(), Sent()
    for sent in (tagged, dotted):
        Gauges(sent, tagged=sent is tagged).set(
            [Gauge("relay.alive", 1), Gauge("destination.dead", 2, ONE.name)]
        )
    alive = ("keepline.relay.alive", 1, {})
    assert tagged.all == [alive, ("keepline.destination.dead", 2, {"tags": {"destination": "Gr__e.eu_1"}})]
    assert dotted.all == [alive, ("keepline.destination.dead.Gr__e_eu_1", 2, {})]


def test_a_destination_that_is_gone_is_set_to_nothing_once() -> None:
    sent = Sent()
    gauges = Gauges(sent, tagged=False)
    gone, stays = Gauge("destination.dead", 2, "gone"), Gauge("destination.dead", 1, "stays")
    gauges.set([gone, stays])
    gauges.set(of_no_outbox())  # nothing is known of them
    sent.all.clear()
    gauges.set([stays])
    assert sent.all == [("keepline.destination.dead.stays", 1, {}), ("keepline.destination.dead.gone", 0, {})]
    sent.all.clear()
    gauges.set([stays])
    assert sent.all == [("keepline.destination.dead.stays", 1, {})]
