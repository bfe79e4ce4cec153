"""The first thing that a started relay does: leave its starter's family. It imports next to nothing."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Go on as a process that nobody has started; its arguments are an outbox's folder and a lock's file."""
    # Until here the relay is the starter's child, and dies with its children. The starter collects this one.
    if os.fork():
        os._exit(0)
    from pathlib import Path

    from keepline.relay.process import detached

    detached(Path(sys.argv[1]), int(sys.argv[2]))
