"""Putting a relay that has the configured settings in the place of one that has others."""

from __future__ import annotations

from keepline.config import RelayMode, Settings
from keepline.errors import RelayError
from keepline.outbox.files import OutboxFiles
from keepline.relay.ending import stop
from keepline.relay.lock import RelayInfo, running

_STOP_SECONDS = 6.0  # a relay takes up to 5 s to end, unless it is configured otherwise


def other_relay(settings: Settings) -> RelayInfo | None:
    """The relay that runs with other settings than these, or is of another version.

    Args:
        settings: as they are configured now.

    Raises:
        OutboxUnavailable: the outbox can't be read.
    """
    try:
        relay = running(OutboxFiles(settings.outbox))
    except RelayError:  # it is just starting, with what is configured now
        return None
    return None if relay is None or relay.serves(settings) else relay


def end_other(settings: Settings) -> RelayInfo | None:
    """End a relay that has other settings; whoever calls starts the next.

    Args:
        settings: as they are configured now.

    Returns:
        the relay that has ended; ``None`` when none had to.

    Raises:
        OutboxUnavailable: the outbox can't be read.
        RelayError: it can't be ended from here, or hasn't ended in time.
    """
    relay = other_relay(settings)
    return None if relay is None else stop(OutboxFiles(settings.outbox), _STOP_SECONDS)


def may_replace(relay: RelayInfo, settings: Settings) -> None:
    """See that a relay would be started again if this ended it.

    Args:
        relay: that runs.
        settings: as they are configured now.

    Raises:
        RelayError: it wouldn't; says who has to do what.
    """
    if relay.inline:
        raise RelayError(
            f"the relay (pid {relay.pid}) has other settings than those configured here, and is a thread of "
            "a program (`relay: inline`); restart that program"
        )
    if relay.foreground or settings.relay is not RelayMode.AUTO:
        raise RelayError(
            f"the relay (pid {relay.pid}) has other settings than those configured here, and isn't started "
            "by Keepline itself; restart it (`keepline relay`)"
        )
