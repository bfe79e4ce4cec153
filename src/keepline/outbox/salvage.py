"""What can be read of a damaged ledger, row by row. Nothing in it is trusted to be what was written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import apsw

from keepline.outbox.files import OutboxFiles

Row = tuple[Any, ...]

_UNREADABLE = (apsw.Error, UnicodeDecodeError)
_PAGE = 4096
_SMALLEST_ROW = 4
_LARGEST_STRIDE = 2**40
_LARGEST = 2**62
_OVERFLOWS = 2**53


class Salvage:
    """A damaged ledger, open for reading.

    Args:
        files: the outbox.
        sound: a new ledger of today's schema, whose first page says where the tables are, should the damaged
            one's be lost.
        spare: where a copy may be made for that; deleted by :meth:`close`.
    """

    def __init__(self, files: OutboxFiles, sound: Path, spare: Path) -> None:
        self._spare = spare
        self._last = 0
        self._most_rows = files.ledger.stat().st_size // _SMALLEST_ROW
        self._tables: dict[str, set[str]] = {}
        self.failed = False
        """Whether something that was asked for since the last look can't be read."""
        self._connection = self._open(files.ledger)
        if self._connection is None and files.ledger.stat().st_size > _PAGE:
            self._connection = self._open(self._with_first_page_of(sound, files.ledger))

    def close(self) -> None:
        """Let go of it."""
        if self._connection is not None:
            self._connection.close()
        for path in self._spare.parent.glob(self._spare.name + "*"):
            path.unlink(missing_ok=True)

    def rows(self, table: str, key: str, columns: str, *, where: str = "1") -> Iterator[Row]:
        """The readable rows of a table: the key, then the columns; ``failed`` tells whether there are others.

        Args:
            table: its name.
            key: a column of whole numbers by which the rows lie, where the condition holds.
            columns: what to read, or NULL where the table is too old to have it.
            where: a condition.
        """
        known = self._columns(table)
        wanted = ", ".join(name if name in known else "NULL" for name in columns.split(", "))
        select = f"SELECT {key}, {wanted} FROM {table} WHERE {where} AND {key}"  # noqa: S608 - fixed names
        upwards = f"{select} > ? ORDER BY {key}"
        failed = False
        last = 0
        while known:
            self._last, self.failed = last, False
            yield from self._stream(upwards, last)
            last = self._last
            if not self.failed:
                break
            failed = True
            # On the other side of what can't be read, and from there back to it.
            stride = 1
            while self.failed and stride < _LARGEST_STRIDE:
                self.failed = False
                beyond = self._first(f"{upwards} LIMIT 1", last + stride)
                stride *= 2
            top = _LARGEST if beyond is None else beyond
            yield from self._stream(f"{select} < ? AND {key} > {last} ORDER BY {key} DESC", top, down=True)
            last = top - 1
            if beyond is None:
                break
        self.failed = failed or not known

    def _stream(self, sql: str, bound: int, *, down: bool = False) -> Iterator[Row]:
        assert self._connection is not None
        try:
            for row in cast("Iterator[Row]", self._connection.execute(sql, (bound,))):
                # Keys that don't rise are damaged, and a tree with such keys may have no end.
                self._most_rows -= 1
                if type(row[0]) is not int or self._most_rows < 0:
                    self.failed = True
                    return
                if row[0] > self._last and not down:
                    self._last = row[0]
                yield row
        except _UNREADABLE:
            self.failed = True

    def _first(self, sql: str, bound: int) -> int | None:
        return next((row[0] for row in self._stream(sql, bound)), None)

    def body(self, event: int) -> bytes | None:
        """The body that the ledger has of an event, if it can be read.

        Args:
            event: its id.
        """
        table, key = ("event", "id") if "body" in self._columns("event") else ("body", "event")
        row = next(self.rows(table, key, "body", where=f"{key} = {event}"), None)
        return row[1] if row is not None and isinstance(row[1], bytes) else None

    def is_whole(self, table: str) -> bool:
        """Whether no row of a table can be missing.

        Args:
            table: its name.
        """
        with suppress(*_UNREADABLE):
            if self._connection is not None:
                return bool(self._connection.execute(f"PRAGMA integrity_check({table})").get == "ok")
        return False

    def _columns(self, table: str) -> set[str]:
        if table not in self._tables:
            self._tables[table] = set()
            with suppress(*_UNREADABLE):
                if self._connection is not None:
                    rows = self._connection.execute(f"PRAGMA table_info({table})")
                    self._tables[table] = {str(row[1]) for row in rows}
        return self._tables[table]

    @staticmethod
    def _open(path: Path) -> apsw.Connection | None:
        connection = None
        try:
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            names = connection.execute("SELECT name FROM sqlite_schema").fetchall()
        except _UNREADABLE:
            names = []
        if ("event",) in names:
            return connection
        if connection is not None:
            connection.close()
        return None

    def _with_first_page_of(self, sound: Path, damaged: Path) -> Path:
        # Every ledger's tables begin on the same pages, since they are made by the same statements.
        shutil.copyfile(damaged, self._spare)
        log = damaged.with_name(damaged.name + "-wal")
        if log.exists():
            shutil.copyfile(log, self._spare.with_name(self._spare.name + "-wal"))
        with sound.open("rb") as file:
            first = bytearray(file.read(_PAGE))
        first[18:20] = b"\2\2"
        first[28:32] = (damaged.stat().st_size // _PAGE).to_bytes(4, "big")
        first[32:40] = bytes(8)
        with self._spare.open("r+b") as file:
            file.write(first)
        return self._spare


def number(value: object) -> int | None:
    """A count or an id, if it is one.

    Args:
        value: as it was read.
    """
    return value if type(value) is int and 0 <= value < _OVERFLOWS else None


def moment(value: object) -> float | None:
    """A time, if it is one.

    Args:
        value: as it was read.
    """
    return value if type(value) is float and 0.0 <= value < _OVERFLOWS else None


def text(value: object) -> str:
    """A text; empty where it is none.

    Args:
        value: as it was read.
    """
    return value if type(value) is str else ""
