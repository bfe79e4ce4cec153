"""How deliveries of a lane end: delivered or dead."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from keepline.destinations.base import Answer
from keepline.outbox.delivery import DeliveryState, Ended, Pending
from keepline.relay.suspects import Suspects
from keepline.relay.trouble import Seldom
from keepline.relay.window import Window

log = logging.getLogger(__name__)

_GONE = Answer(error="its record in the outbox is damaged or gone")


class Ends:
    """Lets go of what has ended, and hands it on to be marked.

    Args:
        ident: the destination's, in the ledger.
        name: the destination's.
        window: has given what ends.
        suspects: of the lane.
        ended: called with each.
    """

    def __init__(
        self, ident: int, name: str, window: Window, suspects: Suspects, ended: Callable[[Ended], None]
    ) -> None:
        self._ident = ident
        self._name = name
        self._window = window
        self._suspects = suspects
        self._ended = ended
        self._seldom = Seldom()

    def delivered(self, one: Pending, answer: Answer) -> None:
        """Make an end of what was taken.

        Args:
            one: as it was given.
            answer: of its last try.
        """
        self._window.end(one)
        if self._suspects:
            self._suspects.forget(one.event)
        passed, taken_by, tries = answer.passed, None, 1
        # A status says it all.
        text = "" if answer.status is not None else str(answer)
        if passed is not None:
            taken_by, tries, text = passed.taken_by, passed.tries, passed.before or text
        first_at = one.first_at or time.time()
        self._ended(
            Ended(
                self._ident,
                one.event,
                DeliveryState.DELIVERED,
                one.attempts + tries,
                first_at,
                answer.status,
                text,
                taken_by,
            )
        )

    def refused(self, one: Pending, answer: Answer) -> None:
        """Make an end of what the destination will never take.

        Args:
            one: as it was given.
            answer: of its last try.
        """
        self._bury(after_a_try(one, answer), answer, "refused an event for good")

    def poisoned(self, one: Pending, answer: Answer) -> None:
        """Make an end of what has used up its budget.

        Args:
            one: as it stands after its last try.
            answer: of that.
        """
        self._bury(one, answer, "fails on an event and takes others")

    def gone(self, one: Pending) -> None:
        """Make an end of what can't be tried, since its body is gone."""
        self._bury(one, _GONE, "can't be given an event")

    def _bury(self, one: Pending, answer: Answer, what: str) -> None:
        self._window.end(one)
        self._suspects.forget(one.event)
        self._ended(
            Ended(
                self._ident,
                one.event,
                DeliveryState.DEAD,
                one.attempts,
                one.first_at,
                answer.status if answer.passed is None else answer.passed.status,
                str(answer),
            )
        )
        if self._seldom.due():
            log.warning(
                "destination `%s` %s: %s; it is kept as a dead letter",
                self._name,
                what,
                answer,
                extra={"destination": self._name, "event": one.event},
            )


def after_a_try(one: Pending, answer: Answer) -> Pending:
    """A delivery as it stands after one more try.

    Args:
        one: as it stood before.
        answer: the try's.
    """
    tries = 1 if answer.passed is None else answer.passed.tries
    first_at = one.first_at or (time.time() if tries else None)
    return Pending(
        one.event, one.run_key, one.body, one.attempts + tries, one.charged, first_at, one.charged_at
    )
