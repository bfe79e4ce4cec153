"""A call as it stands in a spool: one frame with a checksum, so that what was cut off is never taken for one.

::

    mark  size of the rest  checksum of the rest | when  times set aside  size of the name | name  arguments

The arguments are pickled; who reads a frame unpickles them only in a worker.
"""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from typing import NamedTuple

MARK = b"KLc1"
MOST_BYTES = 1 << 28  # of one call: what says to be larger is damaged

_HEAD = struct.Struct("<4sII")
_REST = struct.Struct("<dHH")
_AT_ONCE = 1 << 14  # bytes; most calls have fewer


class Written(NamedTuple):
    """A call that was read.

    Args:
        method: its name.
        arguments: pickled (args, kwargs).
        when: it was submitted, by the wall clock.
        tries: how often it was set aside.
        size: of its frame, bytes.
    """

    method: str
    arguments: bytes
    when: float
    tries: int
    size: int

    def frame(self, tries: int) -> bytes:
        """Write it again.

        Args:
            tries: how often it was set aside.
        """
        return pack(self.method, self.arguments, self.when, tries)


def pack(method: str, arguments: bytes, when: float, tries: int = 0) -> bytes:
    """Make a frame.

    Args:
        method: the method's name.
        arguments: pickled (args, kwargs).
        when: it was submitted, by the wall clock.
        tries: how often it was set aside.
    """
    name = method.encode()
    rest = _REST.pack(when, tries, len(name)) + name
    checksum = zlib.crc32(arguments, zlib.crc32(rest))
    return b"".join((_HEAD.pack(MARK, len(rest) + len(arguments), checksum), rest, arguments))


def read(fd: int, offset: int) -> Written | None:
    """Read the call at a place of a file; None if no whole one is there.

    Args:
        fd: the file.
        offset: where its frame begins.
    """
    data = os.pread(fd, _AT_ONCE, offset)
    if len(data) < _HEAD.size + _REST.size:
        return None
    mark, size, checksum = _HEAD.unpack_from(data)
    end = _HEAD.size + size
    if mark != MARK or not _REST.size <= size <= MOST_BYTES:
        return None
    while len(data) < end:
        more = os.pread(fd, end - len(data), offset + len(data))
        if not more:
            return None
        data += more
    rest = memoryview(data)[_HEAD.size : end]
    if zlib.crc32(rest) != checksum:
        return None
    when, tries, length = _REST.unpack_from(rest)
    name = bytes(rest[_REST.size : _REST.size + length])
    return Written(name.decode(), bytes(rest[_REST.size + length :]), when, tries, end)


def after_damage(fd: int, offset: int) -> int | None:
    """Where the next whole call begins, behind a place where none is; None if there is none.

    Args:
        fd: the file.
        offset: of the place.
    """
    size = os.fstat(fd).st_size
    while offset < size:
        data = os.pread(fd, 1 << 20, offset + 1)
        found = data.find(MARK)
        if found < 0:
            offset += max(len(data) - len(MARK) + 1, 1)
        else:
            offset += 1 + found
            if read(fd, offset):
                return offset
    return None


def arguments_of(args: tuple[object, ...], kwargs: dict[str, object]) -> bytes:
    """Pickle what a call is given.

    Args:
        args: its arguments.
        kwargs: its keyword arguments.

    Raises:
        Exception: whatever they raise when they are pickled.
    """
    return pickle.dumps((args, kwargs), pickle.HIGHEST_PROTOCOL)
