"""Keeping failures of hooks from Airflow: on Airflow 2 a listener's exception goes up into the scheduler."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

from keepline.errors import KeeplineError

log = logging.getLogger(__name__)

_F = TypeVar("_F", bound=Callable[..., Any])


def tell(logger: logging.Logger, what: str, error: BaseException, *, above: int = 0) -> None:
    """Log a failure in one line, and its traceback for who wants to know.

    Of an error that isn't Keepline's own the line has the type alone: its text may hold a secret.

    Args:
        logger: where to.
        what: went wrong.
        error: the failure.
        above: how many calls above the caller the line is to be found that is told as its place.
    """
    name = type(error).__name__
    reason = f"{name}: {error}" if isinstance(error, KeeplineError) else name
    logger.warning("%s (%s); this has no impact on task status", what, reason, stacklevel=2 + above)
    logger.debug("The failure was", exc_info=error)


def guarded(hook: _F) -> _F:
    """Keep whatever a hook raises from its caller, except what is meant to end the process or the task.

    Up to provider 2.19 a child that the provider forks to emit a task's event comes back out of the hook when
    something raises in it, and would go on as a second task. It is ended here.

    Args:
        hook: a method of the listener.
    """

    @functools.wraps(hook)
    def call(*args: Any, **kwargs: Any) -> Any:
        owner = os.getpid()
        try:
            return hook(*args, **kwargs)
        except BaseException as error:
            if not isinstance(error, Exception) and os.getpid() == owner:
                raise
            tell(log, f"OpenLineage hook {hook.__name__} failed", error)
            return None
        finally:
            if os.getpid() != owner:
                try:
                    logging.shutdown()
                finally:
                    os._exit(0)

    return cast("_F", call)


class HookLog(logging.LoggerAdapter):  # type: ignore[type-arg]
    """Logs what the provider's hooks catch: one line, and no end of a process or a task is swallowed.

    The provider catches everything in its hooks, and warns with the traceback. "Everything" includes the
    SystemExit by which a scheduler ends on SIGTERM, and what a task's time limit raises: that goes on from
    here.

    Args:
        logger: the provider's.
    """

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger, {})

    def warning(self, msg: object, *args: object, exc_info: object = None, **kwargs: Any) -> None:
        """Log a warning.

        Args:
            msg: of the provider.
            args: of the message.
            exc_info: whatever says that the provider has caught something.
            kwargs: as of logging.

        Raises:
            BaseException: what the provider has caught and must not keep.
        """
        error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
        if not exc_info or error is None:
            kwargs.setdefault("stacklevel", 2)  # it is the provider who speaks
            self.logger.warning(msg, *args, **kwargs)
            return
        text = str(msg) % args if args else str(msg)
        # What follows the first sentence announces the traceback, or repeats what is told here.
        tell(self.logger, text.partition(". ")[0].rstrip("."), error, above=1)
        if not isinstance(error, Exception):
            raise error
