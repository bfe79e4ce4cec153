"""The relay as a process of its own.

``python -m keepline.relay FOLDER LOCK_FD``, with its settings on standard input.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

from keepline.config import Settings
from keepline.outbox.files import OutboxFiles
from keepline.relay.lock import RelayLock

_LOG_BYTES = 2 * 1024 * 1024


def main() -> None:
    """Take over the lock and the settings, leave the starter's family, and deliver."""
    folder, fd = Path(sys.argv[1]), int(sys.argv[2])
    files = OutboxFiles(folder)
    handed = json.loads(sys.stdin.buffer.read())
    # The starter waits for nobody: its child ends at once, and the relay belongs to init.
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    # A user's own transport may stand in a folder that only the starter knows, such as Airflow's plugins.
    sys.path.extend(entry for entry in handed["path"] if entry not in sys.path)
    handler = RotatingFileHandler(files.relay_log, maxBytes=_LOG_BYTES, backupCount=1, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    os.umask(0o077)
    log = logging.getLogger("keepline.relay")
    lock = RelayLock(files, fd).own()
    if lock is None:
        return
    try:
        # The client's transports take a while to import: only the one relay that there is does it.
        from keepline.relay.relay import serve

        settings = Settings.from_dict(handed["settings"])
        del handed
        lock.announce(settings)
        serve(
            settings,
            lock,
            ends_when_idle=True,
            ready=lambda: log.info("relay of %s delivers to %s", folder, [leg.name for leg in settings.legs]),
        )
    except Exception:
        log.exception("the relay of %s ends with an error; events wait in the outbox", folder)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
