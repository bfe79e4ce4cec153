"""What the figures were measured on, and with which versions; nothing that tells whose machine it is."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from pathlib import Path

import apsw
import nginx
import psutil
import pycurl
from openlineage.client.constants import __version__ as client_version

import keepline


def processor() -> str:
    """The model, as the system names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def described() -> dict[str, str]:
    """Each thing and its version or size."""
    libcurl = next(word for word in pycurl.version.split() if word.startswith("libcurl/"))
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": f"{processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "Python": platform.python_version(),
        "keepline": keepline.__version__,
        "openlineage-python": client_version,
        "libcurl": libcurl.partition("/")[2],
        "SQLite": apsw.sqlite_lib_version(),
        "nginx": nginx.version(),
    }
