"""Giving commands to the relay, and waiting until it has applied them."""

from __future__ import annotations

import time
from collections.abc import Iterable

import click

from keepline.cli.judging import judge, last_words
from keepline.cli.printing import plain
from keepline.cli.waiting import wait_until
from keepline.config import RelayMode, Settings
from keepline.errors import RelayError
from keepline.outbox.asking import Asked, ask, is_applied
from keepline.outbox.commands import Command
from keepline.outbox.destinations import known_destinations
from keepline.outbox.files import OutboxFiles
from keepline.relay.launch import start
from keepline.relay.lock import running
from keepline.relay.replacing import end_other, may_replace, other_relay
from keepline.tuning import Tuning

EXIT_WAITS = 3
"""Something still waits."""
EXIT_DEAD = 4
"""Something was given up."""

_TAKES_OVER = 0.5
# Between starting a relay and beginning to wait for it.
_JUST_BEFORE = 5.0


def runs(files: OutboxFiles) -> bool:
    """Whether a relay runs, or is just starting.

    Args:
        files: the outbox.
    """
    try:
        return running(files) is not None
    except RelayError:
        return True


class RelayGone:
    """Looks whether no relay runs any more; one that has just been started lets go of its lock for a moment.

    Args:
        files: the outbox.

    Attributes:
        seen: whether that was so at the last look.
    """

    def __init__(self, files: OutboxFiles) -> None:
        self.seen = False
        self._files = files
        self._since: float | None = None

    def __call__(self) -> bool:
        """Look."""
        if runs(self._files):
            self._since = None
        elif self._since is None:
            self._since = time.monotonic()
        self.seen = self._since is not None and time.monotonic() - self._since > _TAKES_OVER
        return self.seen


def start_relay(settings: Settings | None) -> None:
    """Start a relay where none runs, unless somebody else has to.

    Args:
        settings: as configured here; without any, none can be started.

    Raises:
        KeeplineError: it can't be started, or couldn't live with what is configured.
    """
    if settings is None or settings.relay is RelayMode.EXTERNAL:
        return
    see_that_one_can_start(OutboxFiles(settings.outbox), settings)
    start(settings)


def how_to_start(settings: Settings | None) -> str:
    """What brings a relay, for those who read that none runs.

    Args:
        settings: as configured here.
    """
    if settings is None or settings.relay is RelayMode.EXTERNAL:
        return "`keepline relay` delivers" if settings is not None else "no destination is configured here"
    return "`keepline flush` starts one"


def see_that_one_can_start(files: OutboxFiles, settings: Settings | None) -> None:
    """Raise where no relay runs, and :func:`start_relay` would start one that ends at once.

    Args:
        files: the outbox.
        settings: as configured here; without any, none is started.

    Raises:
        KeeplineError: what is configured can't be delivered to.
    """
    if settings is not None and settings.relay is not RelayMode.EXTERNAL and not runs(files):
        judge(settings)


def give(files: OutboxFiles, settings: Settings | None, commands: Iterable[Command]) -> Asked | None:
    """Append commands, and start a relay where none runs.

    Args:
        files: the outbox.
        settings: as configured here.
        commands: in the order in which they are to be applied.

    Raises:
        KeeplineError: they can't be appended, or no relay can be started.
    """
    see_that_one_can_start(files, settings)
    asked = ask(files, commands, settings.tuning if settings is not None else Tuning())
    # Behind the append: a relay that ends meanwhile has either seen it, or is gone now.
    start_relay(settings)
    return asked


def wait_applied(files: OutboxFiles, settings: Settings | None, asked: Asked | None, timeout: float) -> None:
    """Wait until commands were applied. Exits with status 3, and says why, when they aren't.

    Args:
        files: the outbox.
        settings: as configured here.
        asked: where the last of them stands; ``None`` for none.
        timeout: longest wait, seconds.

    Raises:
        KeeplineError: the outbox can't be read or watched.
    """
    if asked is None or is_applied(files, asked):
        return
    gone = RelayGone(files)
    began = time.time() - _JUST_BEFORE
    if wait_until(files, lambda: is_applied(files, asked), timeout, unless=gone):
        return
    if gone.seen:
        starts = settings is not None and settings.relay is not RelayMode.EXTERNAL
        see = f"see {files.relay_log}" if starts else how_to_start(settings)
        click.echo(f"no relay runs; the next one does it ({see})", err=True)
        said = last_words(files, began) if starts else ""
        if said:
            click.echo(f"the last one said: {plain(said)}", err=True)
    else:
        click.echo(f"the relay has not come to it within {timeout:g} s; it will", err=True)
    raise SystemExit(EXIT_WAITS)


def see_that_one_may_come(files: OutboxFiles, settings: Settings | None) -> None:
    """Raise where no relay runs and nothing that is configured here could be one.

    Args:
        files: the outbox.
        settings: as configured here.

    Raises:
        RelayError: so it is.
    """
    if settings is None and not runs(files):
        raise RelayError("no relay runs, and no destination is configured here; see `keepline relay --help`")


def renew_relay(settings: Settings) -> None:
    """See that a relay with these settings runs, in place of one that has others.

    Args:
        settings: as configured here.

    Raises:
        KeeplineError: the other one has to be restarted by somebody else, or none can be started.
    """
    other = other_relay(settings)
    if other is not None:
        may_replace(other, settings)
        # A relay that works must not be ended for one that can't.
        judge(settings)
        end_other(settings)
        click.echo(f"the relay (pid {other.pid}) had other settings and is replaced", err=True)
    start_relay(settings)


def introduce(files: OutboxFiles, settings: Settings, name: str, timeout: float) -> None:
    """Have the relay take up a destination that is configured here and that it doesn't know yet.

    Args:
        files: the outbox.
        settings: as configured here.
        name: of the destination.
        timeout: longest wait, seconds.

    Raises:
        KeeplineError: no relay takes it up.
    """

    def is_active() -> bool:
        found = known_destinations(files).get(name)
        return found is not None and found.active

    renew_relay(settings)
    if not runs(files):
        raise RelayError(f"no relay knows `{name}` yet; run `keepline relay`, and try again")
    if not wait_until(files, is_active, timeout):
        raise RelayError(f"the relay has not taken up `{name}` within {timeout:g} s; see {files.relay_log}")
