"""A task's connection to its supervisor on Airflow 3, shared with a thread that was given up.

While the task waits for a thread that emits, it asks its supervisor for nothing. When it has given the thread
up, both may ask at once, and whoever reads first gets the answer. Read in each release of the Task SDK:

==================  ==================================================================================
1.2.1 (3.2.1) on    a lock is held from a request to its answer: nothing to do
1.2.0 (3.2.0)       the lock is let go of before the answer is read
1.0.3 to 1.1.8      no lock; a request and its answer are one call
1.0.0 to 1.0.2      a request and its answer are two calls, at most of whose places a lock is held
==================  ==================================================================================

Where it is one call, a lock is put around that. Where it is two there is no place for one, and no thread is
used: the provider's own way is left as it is.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

_WHOLE_SINCE = (1, 2, 1)


@functools.cache
def share() -> bool:
    """Make the connection safe for a thread beside the task, once.

    Returns:
        whether it is; true where there is none, as on Airflow 2.
    """
    try:
        from airflow.sdk import __version__
    except ImportError:
        return True
    try:
        from airflow.sdk.execution_time.comms import CommsDecoder
    except ImportError:
        return False
    if not hasattr(CommsDecoder, "send"):
        return False
    if _release(__version__) < _WHOLE_SINCE:
        CommsDecoder.send = one_at_a_time(CommsDecoder.send)
    return True


def one_at_a_time(send: Any) -> Any:
    """Put a lock around a method, which what it calls may come back to: a handler of a signal, for example.

    Args:
        send: the method.
    """
    lock = threading.RLock()

    @functools.wraps(send)
    def locked(self: Any, *args: Any, **kwargs: Any) -> Any:
        with lock:
            return send(self, *args, **kwargs)

    return locked


def _release(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        numbers.append(int(digits or 0))
    return tuple(numbers)
