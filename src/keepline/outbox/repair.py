"""Opening the ledger for the relay: a damaged one is set aside, and a new one made of what can be read."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path

import apsw

from keepline.errors import OutboxDamaged, OutboxError
from keepline.outbox.check import damage_in, has_todays_schema
from keepline.outbox.files import OutboxFiles, sync
from keepline.outbox.ledger import Ledger
from keepline.outbox.rebuild import Rebuilding
from keepline.outbox.schema import LedgerTooNew
from keepline.outbox.setting_aside import delete_old_ledgers, set_ledger_aside
from keepline.outbox.sqlite import LOG_BYTES, translated

log = logging.getLogger(__name__)

_CHECK_EVERY = 86400.0


def open_repaired(files: OutboxFiles, *, power: bool = False, log_bytes: int = LOG_BYTES) -> Ledger:
    """Open the ledger for writing, repaired where it is damaged. Only with the relay's lock in hand.

    It is read as a whole once a day, after a relay that was killed, and when the last relay met damage.

    Args:
        files: the outbox.
        power: as of :class:`Ledger`.
        log_bytes: as of :class:`Ledger`.

    Raises:
        OutboxUnavailable: a file can't be opened, read or written.
        OutboxLocked: another process holds it.
        OutboxDamaged: it is a newer Keepline's, or damaged in a way that this can't tell.
    """
    with translated("repair", files.ledger):
        if _made(files).exists():
            _exchange(files)  # Killed in the middle of it.
        wrong = _suspicion(files)
        if wrong is None:
            killed = any(path.exists() for path in _beside(files.ledger))
            try:
                ledger = Ledger(files, power=power, log_bytes=log_bytes)
            except LedgerTooNew as error:
                if not _is_todays(files):
                    raise
                wrong = str(error)
            except OutboxDamaged as error:
                wrong = str(error)
            else:
                wrong = _look_at(files, ledger, thoroughly=killed)
                if wrong is None:
                    return ledger
        _repair(files, wrong)
    return Ledger(files, power=power, log_bytes=log_bytes)


def _suspicion(files: OutboxFiles) -> str | None:
    try:
        found = files.suspect.read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    if not files.ledger.exists():
        files.suspect.unlink(missing_ok=True)
        return None
    return found or "the last relay met damage"


def _look_at(files: OutboxFiles, ledger: Ledger, *, thoroughly: bool) -> str | None:
    wrong: str | None = None
    try:
        with translated("read", files.ledger):
            now = time.time()
            if not has_todays_schema(ledger.db):
                wrong = "its tables aren't those of a ledger"
            elif thoroughly or not 0.0 <= now - _checked_at(ledger) < _CHECK_EVERY:
                wrong = damage_in(files, ledger.db)
                if wrong is None:
                    ledger.db.execute("UPDATE ledger SET checked_at = ?", (now,))
    except OutboxDamaged as error:
        wrong = str(error)
    except BaseException:
        ledger.close()
        raise
    if wrong is not None:
        with suppress(OutboxError):
            ledger.close()
    return wrong


def _checked_at(ledger: Ledger) -> float:
    found = ledger.db.execute("SELECT checked_at FROM ledger").get
    return found if isinstance(found, float) else float("-inf")


def _is_todays(files: OutboxFiles) -> bool:
    # A newer version's tables would be others; so only the number of its version is damaged.
    connection = apsw.Connection(str(files.ledger), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return has_todays_schema(connection)
    finally:
        connection.close()


def _repair(files: OutboxFiles, wrong: str) -> None:
    making = files.folder / "ledger.repair"
    _delete(making)
    began = time.monotonic()
    log.error("the ledger %s is damaged, and is being repaired: %s", files.ledger, wrong)
    try:
        rebuilding = Rebuilding(files, making)
        try:
            saved = rebuilding.run()
        finally:
            rebuilding.close()
        sync(making)
        making.rename(_made(files))
    finally:
        _delete(making)
    folder = _exchange(files)
    log.error(
        "the damaged ledger is set aside in %s. Saved: %d events and %d deliveries; %d more events were "
        "found in the segments, and are delivered again; it took %.1f s",
        folder,
        saved.known,
        saved.deliveries,
        saved.found,
        time.monotonic() - began,
    )


def _made(files: OutboxFiles) -> Path:
    """The new ledger, whole, which hasn't taken the damaged one's place yet."""
    return files.folder / "ledger.repaired"


def _exchange(files: OutboxFiles) -> Path | None:
    """Put the new ledger in the place of the damaged one; again from the beginning, if it was killed."""
    # Its log first: it would be taken for the new one's.
    folder = set_ledger_aside(files, (*_beside(files.ledger), files.ledger))
    _made(files).rename(files.ledger)
    files.suspect.unlink(missing_ok=True)
    delete_old_ledgers(files)
    return folder


def _beside(ledger: Path) -> list[Path]:
    return [ledger.with_name(ledger.name + end) for end in ("-wal", "-shm", "-journal")]


def _delete(making: Path) -> None:
    for path in making.parent.glob(making.name + "*"):
        if path.name != "ledger.repaired":
            path.unlink(missing_ok=True)
