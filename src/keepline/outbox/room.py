"""How much room an outbox takes."""

from __future__ import annotations

import os

from keepline.outbox.files import OutboxFiles


def bytes_used(files: OutboxFiles) -> int:
    """Bytes of journal, archive and ledger.

    Args:
        files: the outbox.
    """
    total = 0
    for folder in (files.journal, files.archive, files.folder):
        try:
            with os.scandir(folder) as entries:
                total += sum(e.stat().st_size for e in entries if e.is_file())
        except OSError:
            continue
    return total
