"""The folder of what can't be read: kept for whoever wants to look at it; nothing here reads it again."""

from __future__ import annotations

import os
from pathlib import Path

from keepline.outbox.archive import archived_path
from keepline.outbox.files import OutboxFiles, open_private
from keepline.outbox.record import Damage
from keepline.outbox.segments import segment_path

_MOST_STRETCHES = 200


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
    except OSError as error:
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
    for path in (segment_path(files, segment), archived_path(files, segment)):
        try:
            with path.open("rb") as file:
                file.seek(damage.position)
                return file.read(damage.end - damage.position)
        except FileNotFoundError:
            continue
    return b""


def folder_for(files: OutboxFiles, name: str) -> Path:
    """Make a folder for files that are set aside; never one that is there.

    Args:
        files: the outbox.
        name: of the folder; a number is put behind it where it is taken.

    Raises:
        OSError: it can't be made.
    """
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
