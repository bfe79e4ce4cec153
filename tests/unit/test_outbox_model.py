"""The outbox against a model of it, through whatever can happen to it in any order."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.support_outbox import event, pending_at

from keepline.outbox import finished, pruning
from keepline.outbox.commands import Command, Discard, Replay, to_json
from keepline.outbox.delivery import DeliveryState, Ended, Pending, Tried
from keepline.outbox.files import OutboxFiles
from keepline.outbox.journal import Producer
from keepline.outbox.pruning import Pruning
from keepline.outbox.record import encode, encode_command
from keepline.outbox.repair import open_repaired
from keepline.outbox.room import Room
from keepline.outbox.segments import open_newest, segment_numbers, segment_path
from keepline.relay import inbound
from keepline.relay.inbound import Inbound
from keepline.tuning import Tuning

PENDING, DELIVERED, DEAD, DISCARDED = DeliveryState
MEMORY = Path("/dev/shm")
SEGMENT = 1500
NAMES = ("trove", "datadog")

ends = st.sampled_from([DELIVERED, DELIVERED, DEAD])
where = st.sampled_from(NAMES)
positions = st.integers(0, 30)


@dataclass
class Model:
    """What became of each event, by its id; and how many ended in which way, also those that were pruned."""

    names: dict[int, str] = field(default_factory=dict)
    states: dict[str, dict[int, DeliveryState]] = field(default_factory=lambda: {name: {} for name in NAMES})
    attempts: dict[tuple[str, int], int] = field(default_factory=dict)
    pruned: dict[tuple[str, DeliveryState], int] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)

    def of(self, name: str, *states: DeliveryState) -> list[int]:
        return [number for number, state in sorted(self.states[name].items()) if state in states]


class Outbox(RuleBasedStateMachine):
    """An outbox as producers, a relay, operators, crashes and damage use it."""

    def __init__(self) -> None:
        super().__init__()
        # In memory where there is such a folder: nothing here is about the disk, which may be a slow one.
        self.root = Path(tempfile.mkdtemp(prefix="keepline-model-", dir=MEMORY if MEMORY.is_dir() else None))
        self.patches = [
            mock.patch.object(inbound, "_BATCH", 3),
            mock.patch.object(pruning, "_STEP", 2),
            mock.patch.object(finished, "_SMALL", 500),
        ]
        for patch in self.patches:
            patch.start()
        self.folders = 0
        self.appended = 0
        self.model = Model()
        # What stood in the ledger alone, since its segment had gone, when that was damaged.
        self.at_risk: set[str] = set()
        self.active: tuple[str, ...] = NAMES
        self.files = OutboxFiles(self.root / "0")

    @initialize()
    def begin(self) -> None:
        self._open()

    def _open(self) -> None:
        self.producer = Producer(self.files, segment_bytes=SEGMENT, lock_timeout=1.0)
        self.ledger = open_repaired(self.files)
        self.ids = self.ledger.register(NAMES, "open")
        self._configure()

    def _configure(self) -> None:
        ids = list(self.ledger.register(self.active, "open").values())
        self.inbound = Inbound(self.files, self.ledger, Tuning(segment_bytes=SEGMENT), ids)

    def _close(self) -> None:
        self.producer.close()
        self.ledger.close()

    def teardown(self) -> None:
        self._close()
        for patch in self.patches:
            patch.stop()
        shutil.rmtree(self.root)

    # Producers

    @rule(many=st.integers(1, 6), size=st.sampled_from([10, 200, 900]))
    def append(self, many: int, size: int) -> None:
        for _ in range(many):
            name = f"{self.appended} {size}"
            self.appended += 1
            self.producer.append(event(name, run=str(self.appended % 3), size=size))
            self.model.waiting.append(name)

    @rule()
    def rotate(self) -> None:
        for number in segment_numbers(self.files)[-1:]:
            segment_path(self.files, number).chmod(0o400)

    @rule(part=st.floats(0.05, 0.95))
    def tear(self, part: float) -> None:
        self._write(encode(event("torn", size=100), 1)[: int(150 * part)])

    def _write(self, data: bytes) -> None:
        file = open_newest(self.files, Room(self.files, max_bytes=None, segment_bytes=SEGMENT), 1.0)
        os.write(file.fd, data)
        file.close()

    # The relay

    @rule()
    def take_some_in(self) -> None:
        before = self._last_id()
        self.inbound.take_in()
        self.inbound.tidy()
        self._taken(before)

    @rule()
    def take_all_in(self) -> None:
        before = self._last_id()
        while self.inbound.take_in() is not None:
            self.inbound.tidy()
        self.inbound.tidy()
        self._taken(before)
        assert self.model.waiting == []

    def _last_id(self) -> int:
        return int(self.ledger.db.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").get or 0)

    def _taken(self, before: int) -> None:
        for number in range(before + 1, self._last_id() + 1):
            self.model.names[number] = self.model.waiting.pop(0)
            for name in self.active:
                self.model.states[name][number] = PENDING

    @rule(names=st.sampled_from([NAMES, NAMES[:1], NAMES[1:]]))
    def configure(self, names: tuple[str, ...]) -> None:
        self.active = names
        self._configure()

    def _claim(self, name: str, many: int) -> list[Pending]:
        found = pending_at(self.ledger, self.ids[name], 0, many)
        assert [one.event for one in found] == self.model.of(name, PENDING)[: len(found)]
        for one in found:
            appended = self.model.names[one.event]
            expected = event(appended, size=int(appended.split()[1])).body
            assert one.body == expected or (one.body is None and appended in self.at_risk)
            assert one.attempts == self.model.attempts.get((name, one.event), 0)
        return found

    @rule(name=where, many=st.integers(1, 8), state=ends)
    def end(self, name: str, many: int, state: DeliveryState) -> None:
        found = self._claim(name, many)
        ended = [Ended(self.ids[name], one.event, state, one.attempts + 1, 1.0, 201, "") for one in found]
        self.ledger.end(ended, time.time())
        for one in found:
            self.model.states[name][one.event] = state

    @rule(name=where, position=positions)
    def fail(self, name: str, position: int) -> None:
        for one in self._claim(name, position + 1)[position:]:
            tried = Tried(self.ids[name], one.event, one.attempts + 1, 1, 1.0, 2.0, 503, "503")
            self.ledger.tried([tried])
            self.model.attempts[name, one.event] = one.attempts + 1

    @rule(name=where, position=positions)
    def hand_over(self, name: str, position: int) -> None:
        (other,) = {*NAMES} - {name}
        for one in self._claim(name, position + 1)[position:]:
            ended = Ended(self.ids[name], one.event, DELIVERED, 1, taken_by=self.ids[other])
            self.ledger.end([ended], time.time())
            del self.model.states[name][one.event]
            self.model.states[other][one.event] = DELIVERED

    @rule(name=where)
    def end_again(self, name: str) -> None:
        ended = self.model.of(name, DELIVERED, DEAD, DISCARDED)
        self.ledger.end([Ended(self.ids[name], one, DEAD, 9) for one in ended], time.time())

    # Operators

    def _command(self, command: Command) -> None:
        self._write(encode_command(to_json(command), time.time_ns()))
        self.take_all_in()

    @rule(name=where, position=positions)
    def replay(self, name: str, position: int) -> None:
        chosen = sorted(self.model.names)[position : position + 3]
        self._command(Replay(self.ledger.identity, name, (*chosen, 10**9)))
        for one in chosen:
            if self.model.states[name].get(one) is not PENDING:
                self.model.states[name][one] = PENDING
                self.model.attempts.pop((name, one), None)

    @rule(name=where, position=positions)
    def discard(self, name: str, position: int) -> None:
        chosen = self.model.of(name, DEAD, DELIVERED)[position : position + 3]
        self._command(Discard(self.ledger.identity, name, tuple(chosen)))
        for one in chosen:
            if self.model.states[name][one] is DEAD:
                self.model.states[name][one] = DISCARDED

    @rule(pressed=st.booleans())
    def prune(self, pressed: bool) -> None:
        one = Pruning(self.files, self.ledger)
        one.begin()
        while one.step(time.time() + (0 if pressed else 1e6), pressed=pressed):
            pass
        rows = self.ledger.db.execute("SELECT id FROM event").fetchall()
        for gone in set(self.model.names).difference(number for (number,) in rows):
            del self.model.names[gone]
            for name in NAMES:
                state = self.model.states[name].pop(gone, None)
                if state is None:
                    continue  # It was never for it.
                assert state in (DELIVERED, DISCARDED)
                self.model.pruned[name, state] = self.model.pruned.get((name, state), 0) + 1

    # Crashes

    @rule()
    def end_and_begin_again(self) -> None:
        self._close()
        self._open()

    def _kill(self) -> OutboxFiles:
        """What is on the disk when every process that used the outbox is killed."""
        self.folders += 1
        files = OutboxFiles(self.root / str(self.folders))
        shutil.copytree(self.files.folder, files.folder)
        self._close()
        shutil.rmtree(self.files.folder)
        return files

    @rule()
    def be_killed(self) -> None:
        self.files = self._kill()
        self._open()
        assert not self.files.damaged.joinpath("ledger.db").exists()

    @rule(part=st.floats(0, 1))
    def lose_the_end_of_the_log(self, part: float) -> None:
        self.files = self._kill()
        log = self.files.folder / "ledger.db-wal"
        if log.exists():
            os.truncate(log, int(log.stat().st_size * part))
        self._learn_anew()

    @rule(seed=st.integers(0, 1000), checkpoint=st.booleans())
    def damage(self, seed: int, checkpoint: bool) -> None:
        if checkpoint:
            self.ledger.checkpoint()
        rescued = self.ledger.db.execute("SELECT id FROM event WHERE segment IS NULL").fetchall()
        self.at_risk.update(self.model.names[number] for (number,) in rescued)
        self.files = self._kill()
        chance = random.Random(seed)
        with self.files.ledger.open("r+b") as file:
            for _ in range(3):
                page = chance.randrange(max(self.files.ledger.stat().st_size // 4096, 1))
                file.seek(page * 4096)
                file.write(chance.choice([bytes(4096), chance.randbytes(4096), chance.randbytes(3)]))
        self._learn_anew()

    def _learn_anew(self) -> None:
        """See that nothing is lost that waited or was dead, and go on from what the outbox says now."""
        old = self.model
        self._open()
        while self.inbound.take_in() is not None:
            self.inbound.tidy()
        self.inbound.tidy()
        self.model = Model()
        rows = self.ledger.db.execute("SELECT id, job_name FROM event").fetchall()
        self.model.names = {number: str(name) for number, name in rows}
        for name, ident in self.ids.items():
            found = self.ledger.db.execute(
                "SELECT event, state, attempts FROM delivery WHERE destination = ?", (ident,)
            ).fetchall()
            self.model.states[name] = {number: DeliveryState(state) for number, state, _ in found}
            self.model.attempts.update({(name, number): tries for number, state, tries in found if not state})
            there = {self.model.names[one] for one in self.model.of(name, PENDING, DEAD)}
            ended = {self.model.names[one] for one in self.model.of(name, DELIVERED, DISCARDED)}
            needed = {old.names[one] for one in old.of(name, PENDING, DEAD)}
            # A repair has nothing wait for a destination that isn't configured any more.
            assert name not in self.active or needed.union(old.waiting) - self.at_risk <= there | ended
            for state in (DELIVERED, DISCARDED):
                (count,) = self.ledger.db.execute(
                    f"SELECT {state.name} FROM destination WHERE id = ?", (ident,)
                ).fetchall()[0]
                self.model.pruned[name, state] = int(count) - len(self.model.of(name, state))
                assert self.model.pruned[name, state] >= 0

    # What always holds

    @invariant()
    def everything_is_accounted_for(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for name, ident in self.ids.items():
            rows = self.ledger.db.execute(
                "SELECT event, state FROM delivery WHERE destination = ? ORDER BY event", (ident,)
            ).fetchall()
            assert dict(rows) == self.model.states[name]
            counts = self.ledger.db.execute(
                "SELECT delivered, dead, discarded FROM destination WHERE id = ?", (ident,)
            ).fetchall()[0]
            for state, count in zip((DELIVERED, DEAD, DISCARDED), counts, strict=True):
                assert count == len(self.model.of(name, state)) + self.model.pruned.get((name, state), 0)

    @invariant()
    def what_waits_comes_in_the_order_of_appending_and_as_it_was_appended(self) -> None:
        if hasattr(self, "ledger"):
            for name in NAMES:
                assert len(self._claim(name, 1000)) == len(self.model.of(name, PENDING))


TestOutbox = Outbox.TestCase
TestOutbox.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
