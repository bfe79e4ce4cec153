"""The folder of what can't be read: kept for whoever wants to look at it; nothing here reads it again."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from keepline.errors import OutboxError
from keepline.outbox.archive import find_segment
from keepline.outbox.files import OutboxFiles, open_private
from keepline.outbox.record import Damage

log = logging.getLogger(__name__)

_MOST_STRETCHES = 200
_MOST_LEDGERS = 3
_LEDGER = "-ledger"


def keep_stretch(files: OutboxFiles, segment: int, damage: Damage) -> str:
    """Copy a stretch of a segment that holds no whole record, unless it was copied before.

    Args:
        files: the outbox.
        segment: the segment.
        damage: the stretch.

    Returns:
        what became of it, in words.
    """
    path = files.damaged / f"{segment}-{damage.position}.bin"
    try:
        data = _read(files, segment, damage)
        if not data:
            return "they aren't there any more"
        files.damaged.mkdir(mode=0o700, exist_ok=True)
        if len(os.listdir(files.damaged)) >= _MOST_STRETCHES:
            return f"not kept, since {files.damaged} is full of others; empty it"
        fd = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return f"they are kept in {path}"
    except (OSError, OutboxError) as error:
        return f"they can't be kept: {error}"
    with os.fdopen(fd, "wb") as file:
        try:
            file.write(data)
            file.flush()
        except OSError as error:
            path.unlink(missing_ok=True)
            return f"they can't be kept: {error}"
    return f"they are kept in {path}"


def _read(files: OutboxFiles, segment: int, damage: Damage) -> bytes:
    file = find_segment(files, segment)
    if file is None:
        return b""
    try:
        return os.pread(file.fd, damage.end - damage.position, damage.position)
    finally:
        file.close()


def set_ledger_aside(files: OutboxFiles, paths: Sequence[Path]) -> Path | None:
    """Move the files of a damaged ledger here.

    Args:
        files: the outbox.
        paths: in the order in which they are moved; those that aren't there are left out.

    Returns:
        the folder that has them; ``None`` where none was there.

    Raises:
        OSError: they can't be moved.
    """
    folder = None
    for path in paths:
        if path.exists():
            folder = folder or _folder_for(files, time.strftime(f"%Y%m%dT%H%M%S{_LEDGER}"))
            path.rename(folder / path.name)
    return folder


def delete_old_ledgers(files: OutboxFiles) -> None:
    """Delete all but the last few ledgers that were set aside; a failure is logged.

    Args:
        files: the outbox.
    """
    # Each is as large as the ledger was, and of use only to somebody who wants to look at it.
    try:
        found = [path for path in files.damaged.glob(f"*{_LEDGER}*") if path.is_dir()]
        for path in sorted(found, key=lambda path: path.stat().st_mtime_ns)[:-_MOST_LEDGERS]:
            shutil.rmtree(path)
            log.warning("deleted the damaged ledger in %s: %d later ones are kept", path, _MOST_LEDGERS)
    except OSError as error:
        log.warning("can't delete damaged ledgers of long ago: %s", error)


def _folder_for(files: OutboxFiles, name: str) -> Path:
    files.damaged.mkdir(mode=0o700, exist_ok=True)
    number = 0
    while True:
        path = files.damaged / (f"{name}-{number}" if number else name)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            number += 1
        else:
            return path
