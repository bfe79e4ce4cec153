"""A worker with an interpreter of its own, to replace a forked one when no one submits.

Multiprocessing's spawn would do, but for two things. It keeps a process of its own, the resource tracker,
beside the owner. And it runs the owner's ``__main__`` again, which a script that only forks isn't made for.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from multiprocessing import spawn
from typing import cast

from keepline.pool.worker import serve

# Modules are found where this process finds them, this one too. The arguments are no business of residents.
_BOOT = (
    "import sys; sock, sentinel, owner, *sys.path = sys.argv[1:]; del sys.argv[1:]; "
    "from keepline.pool.fresh import main; main(int(sock), int(sentinel), int(owner))"
)


class FreshProcess:
    """The process; it has of multiprocessing's Process what a WorkerProcess needs.

    The pool sends the worker's duty as the first frame.

    Args:
        sock: file descriptor of the worker's end of its socket.

    Raises:
        Exception: OSError, or TypeError where this interpreter doesn't know its executable.
    """

    def __init__(self, sock: int) -> None:
        reader, writer = os.pipe()  # the writer is open until the process ends
        # As multiprocessing does; without them, some options of this interpreter's are missing there.
        options: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
        numbers = [str(number) for number in (sock, writer, os.getpid())]
        path = [entry for entry in sys.path if isinstance(entry, str)]
        try:
            # Subprocess forks too, in a way, but nothing of this process runs in there before the exec.
            self._popen = subprocess.Popen(
                [spawn.get_executable(), *options, "-c", _BOOT, *numbers, *path],
                stdin=subprocess.DEVNULL,
                pass_fds=(sock, writer),
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self._reader: int | None = reader
        self.pid = self._popen.pid

    @property
    def sentinel(self) -> int:
        """A file descriptor that can be read when the process has ended."""
        return cast("int", self._reader)

    @property
    def exitcode(self) -> int | None:
        """The exit code, or a signal's number negated; None while the process lives."""
        return self._popen.poll()

    def kill(self) -> None:
        """Kill the process, if it lives."""
        self._popen.kill()

    def join(self, timeout: float) -> None:
        """Wait until it has ended.

        Args:
            timeout: how long at most, seconds.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)

    def close(self) -> None:
        """Close what this process has of it, as the owner or as a forked child of the owner."""
        reader, self._reader = self._reader, None
        if reader is not None:
            os.close(reader)
        if self._popen.returncode is None:
            self._popen.returncode = 0  # or else it would complain when it is forgotten


def main(sock: int, sentinel: int, owner: int) -> None:
    """Be the worker.

    Args:
        sock: file descriptor of this worker's end of its socket.
        sentinel: the one to hold until the end.
        owner: pid of the process that owns the pool.
    """
    for descriptor in (sock, sentinel):
        os.set_inheritable(descriptor, False)
    theirs = socket.socket(fileno=sock)
    try:
        serve(theirs, None, owner, direct=True)
    finally:
        theirs.detach()  # the process' end closes it, as that of a forked worker does
