"""Several destinations that stand in for one another: the first that accepts an event has it.

This is the composite transport's ``continue_on_success: false``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial

from keepline.destinations.base import Answer, Done, Passed, Try
from keepline.relay.policy import LaneState, Verdict, charges, judge, overloaded
from keepline.relay.turn import Leg, StandIn, Turn

_MOST_REMEMBERED = 16_384


class Failover:
    """Takes tries as one destination does, and hands each to the first of several that takes it.

    They are asked in their order. One that is out or paused is passed over, but for one probe at a time when
    its pause is over: so the first takes over again once it is back. One that refuses an event, or fails on
    it, has the next asked. What all refuse is refused. While all are out, tries wait here, unanswered. An
    event that has been asked about everywhere it could be, and neither taken nor refused by all, is given
    back to wait by itself.

    At least once, as everywhere: an event whose try at one runs out of time, and that another takes, may have
    arrived at both.

    Args:
        legs: in their order, the preferred one first.
        loop: of the relay.
        done: called with the event's id and what became of each try.

    Raises:
        Exception: the client's own, for a leg that it can't take.
    """

    def __init__(self, legs: Sequence[StandIn], loop: asyncio.AbstractEventLoop, done: Done) -> None:
        self._loop = loop
        self._done = done
        self._legs: list[Leg] = []
        self._turns: dict[int, Turn] = {}
        self._waiting: deque[Turn] = deque()
        # Events that were given back to wait, the oldest first.
        self._remembered: dict[int, Turn] = {}
        self._held = False
        try:
            for number, one in enumerate(legs):
                destination = one.connect(partial(self._on_answer, number))
                health = one.health(destination.timeout, self._advance)
                self._legs.append(Leg(one.ident, destination, health))
        except BaseException:
            self.close(0.0)
            raise
        self.capacity = max(leg.destination.capacity for leg in self._legs)
        self.timeout = max(leg.destination.timeout for leg in self._legs)

    @property
    def busy(self) -> bool:
        """Whether a request is under way; one that waits for all to come back isn't."""
        return any(leg.in_flight for leg in self._legs)

    def hold(self, held: bool) -> None:
        """Ask nobody while ``held``."""
        self._held = held
        self._advance()

    def forget(self) -> None:
        """Forget who has refused what, since an operator knows better."""
        self._remembered.clear()

    def start(self, one: Try) -> None:
        """Begin a try."""
        turn = self._remembered.pop(one.event, None) or Turn(one)
        turn.begin(one)
        self._turns[one.event] = turn
        if not self._go_on(turn):
            self._waiting.append(turn)

    def close(self, timeout: float) -> None:
        """Let go of all destinations; see :class:`Destination`."""
        for leg in self._legs:
            leg.health.close()
            leg.destination.close(timeout)

    def _advance(self) -> None:
        """Have those go on that waited, as far as they can."""
        kept: list[Turn] = []
        while self._waiting:
            turn = self._waiting.popleft()
            if not self._go_on(turn):
                kept.append(turn)
                if not turn.asked and not turn.refused:
                    break  # All others behind it wait for the same.
        self._waiting.extendleft(reversed(kept))

    def _go_on(self, turn: Turn) -> bool:
        """Ask the next one about an event, or give it back; false where it has to wait."""
        if self._held:
            return False
        for leg in self._legs:
            if leg.ident in turn.asked or leg.ident in turn.refused:
                continue
            health = leg.health
            if health.state is LaneState.OPEN:
                if leg.in_flight >= leg.pace.limit:
                    return False
                self._ask(turn, leg)
                return True
            if leg.probing or leg.in_flight >= (1 if health.overloaded else leg.destination.capacity):
                continue
            # A quick probe is another event's than the one that has failed.
            if not health.waiting or (health.quick and leg.ident not in turn.successes):
                if health.waiting:
                    health.hurry()
                leg.probing = True
                self._ask(turn, leg)
                return True
        if turn.asked or turn.refused:
            # Not before start() has returned.
            self._loop.call_soon(self._give_back, turn)
            return True
        return False

    def _ask(self, turn: Turn, leg: Leg) -> None:
        turn.epoch = leg.health.epoch
        turn.began = self._loop.time()
        leg.in_flight += 1
        leg.pace.tight = leg.in_flight >= leg.pace.limit
        leg.destination.start(Try(turn.one.event, turn.one.body, leg.health.deadline))

    def _on_answer(self, number: int, event: int, answer: Answer) -> None:
        leg, turn = self._legs[number], self._turns[event]
        leg.in_flight -= 1
        leg.health.last = answer
        turn.tries += 1
        turn.status = answer.status
        current = turn.epoch == leg.health.epoch
        probe = current and leg.health.state is not LaneState.OPEN
        if probe:
            leg.probing = False
        verdict = judge(answer)
        if verdict in (Verdict.DELIVERED, Verdict.REFUSED):
            self._well(leg, turn, current=current, probe=probe, delivered=verdict is Verdict.DELIVERED)
            if verdict is Verdict.DELIVERED:
                self._taken(leg, turn, answer)
            else:
                turn.refused[leg.ident] = str(answer)
        else:
            self._failed(leg, turn, verdict, answer, current=current)
        if verdict is not Verdict.DELIVERED and not self._go_on(turn):
            self._waiting.appendleft(turn)
        self._advance()

    def _well(self, leg: Leg, turn: Turn, *, current: bool, probe: bool, delivered: bool) -> None:
        took = self._loop.time() - turn.began
        if probe:
            if not leg.health.opens_at_once:
                leg.pace.restart()
            leg.health.recover(took)
        elif current and delivered:
            leg.pace.succeeded(took)
        if delivered:
            leg.successes += 1
            leg.health.delivered = leg.health.delivered or current

    def _taken(self, leg: Leg, turn: Turn, answer: Answer) -> None:
        before = []
        for other in self._legs:
            if other is leg:
                break
            before.append(self._said(other, turn))
        passed = Passed(turn.tries, taken_by=leg.ident, before="; ".join(before))
        self._answer(turn, Answer(answer.status, accepted=answer.accepted, passed=passed))

    def _failed(self, leg: Leg, turn: Turn, verdict: Verdict, answer: Answer, *, current: bool) -> None:
        may_charge = charges(answer)
        turn.asked[leg.ident] = str(answer)
        before = turn.successes.get(leg.ident)
        turn.successes[leg.ident] = leg.successes
        if may_charge and before is not None and leg.successes > before:
            turn.blamed = True
            return
        turn.excused = turn.excused or not may_charge
        if current:
            if overloaded(answer):
                leg.pace.congested()
            leg.health.fail(verdict, answer)

    def _said(self, leg: Leg, turn: Turn) -> str:
        said = turn.refused.get(leg.ident) or turn.asked.get(leg.ident) or leg.health.reason
        return f"{leg.health.name}: {said}"

    def _give_back(self, turn: Turn) -> None:
        text = "; ".join(self._said(leg, turn) for leg in self._legs)
        if len(turn.refused) == len(self._legs):
            passed = Passed(turn.tries, status=turn.status)
            self._answer(turn, Answer(error=text, refused=True, passed=passed))
            return
        blamed = turn.blamed and not turn.excused
        blamed = blamed and len(turn.refused) + len(turn.asked) == len(self._legs)
        # What is remembered are the answers; the body comes with the next try.
        turn.one = turn.one._replace(body=b"")
        self._remembered[turn.one.event] = turn
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.pop(next(iter(self._remembered)))
        self._answer(turn, Answer(error=text, passed=Passed(turn.tries, later=True, blamed=blamed)))

    def _answer(self, turn: Turn, answer: Answer) -> None:
        del self._turns[turn.one.event]
        self._done(turn.one.event, answer)
