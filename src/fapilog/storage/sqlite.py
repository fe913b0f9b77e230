"""The chain in one file of SQLite, which answers questions by indices, shared by all processes that write to it."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, overload

from ..record import chain
from ..record.chain import EMPTY, ChainError, ChainHead, ChainStatus, Seal
from ..record.errors import AuditStorageError, StoringInterruptedError
from ..record.events import AuditEvent
from ..record.options import require_path
from ..record.privacy import without_frames
from ..tasks.groupcommit import GroupCommit
from ..tasks.threads import in_thread
from ._anchor import Anchor
from ._files.access import why_not_writable
from ._room import Room
from ._rows import reader
from ._rows.reader import Row, RowReader
from ._rows.storage import RowStorage
from ._rows.table import COLUMNS, Dialect, Question, follow_row, rows_of, values_of
from ._sqlitetrail import TrailFile
from .copying import elsewhere, followed

__all__ = ["SQLiteStorage"]

_INTERRUPTED: Final = StoringInterruptedError()

_MIN: Final = -(2**63)

# Only names of columns are put into these.
_INSERT: Final = (
    f"INSERT INTO records (sequence_number, {', '.join(COLUMNS)}, line)"  # noqa: S608
    f" VALUES (?, {', '.join('?' * len(COLUMNS))}, ?)"
)
_EVERYTHING: Final = (
    f"SELECT sequence_number, line, {', '.join(COLUMNS)} FROM records"  # noqa: S608
    " WHERE sequence_number >= ? ORDER BY sequence_number LIMIT ?"
)
_OF_TIMES: Final = "SELECT sequence_number FROM records INDEXED BY by_timestamp WHERE timestamp BETWEEN ? AND ?"
_NEWEST: Final = "SELECT sequence_number, line FROM records ORDER BY sequence_number DESC LIMIT 1"
_NEWEST_BEFORE: Final = "SELECT max(sequence_number) FROM records WHERE sequence_number < ?"


class _Item(NamedTuple):
    event_id: str
    body: bytes
    values: tuple[Any, ...]


class SQLiteStorage(RowStorage):
    """
    The chain in one file of SQLite, for one process or many.

    A question for a user, a session, a request, a trace, an address, an actor, a target, a type or a time takes an
    index, however long the chain is. The records are the lines that `FileStorage` writes. An event whose id is there
    already is refused.

    Args:
        path: The file; made, mode 0600, when the first event is stored, with its directory. Two more are beside it
            while it is open, NAME-wal and NAME-shm, and belong to it. A local file system: SQLite's locks are not to be
            relied on over NFS.
        durability: "fsync": an event counts as stored when it is on the disk. All callers that wait share one sync.
            "write": when the operating system has it; a crash of the process loses nothing, one of the machine may
            lose the last events.

    Raises:
        TypeError: *path* is no path.
        ValueError: An unknown *durability*, or *path* is a text that no file can be called.
    """

    def __init__(self, path: Path | str, *, durability: Literal["fsync", "write"] = "fsync") -> None:
        if durability not in ("fsync", "write"):
            raise ValueError(f"durability: expected 'fsync' or 'write'; got {durability!r}")
        # A daemon that changes to another directory does not take the trail with it.
        self._path = require_path("path", path).absolute()
        self._writer = TrailFile(self._path, durable=durability == "fsync")
        # Another connection, so that no reader is in a writer's way.
        self._reads = TrailFile(self._path, durable=durability == "fsync")
        super().__init__(_Reader(self._reads, self._path.name), [self._reads, self._writer])
        self._room = Room(self._path.parent)
        self._commits: GroupCommit[_Item, Seal | None] = GroupCommit(self._commit, interrupted=_INTERRUPTED)

    def __str__(self) -> str:
        """Return the path of the file."""
        return str(self._path)

    def __repr__(self) -> str:
        return f"<SQLiteStorage {str(self._path)!r}>"

    @overload
    async def append(self, event: AuditEvent, *, once: Literal[False] = False) -> Seal: ...
    @overload
    async def append(self, event: AuditEvent, *, once: bool = False) -> Seal | None: ...

    @without_frames
    async def append(self, event: AuditEvent, *, once: bool = False) -> Seal | None:
        """
        Store *event* as the next of the chain.

        A caller that is cancelled while it waits for its turn has stored nothing; later, it may have.

        Args:
            event: The event.
            once: Whether to return None, and not to raise, if a record has its id already.

        Raises:
            AuditStorageError: It is not stored: the file can't be written to, its newest record is damaged or was taken
                away, the record would be longer than `MAX_RECORD_BYTES`, or another one has the id.
        """
        body = chain.body_to_store(event)
        result = await self._commits.submit(_Item(event.event_id, body, values_of(event)))
        if result is None and not once:
            raise AuditStorageError(f"cannot append to {self._path}: a record has the id of this event already")
        return result

    @without_frames
    async def append_lines(
        self, after: ChainHead, lines: Sequence[bytes], *, removed: Anchor | None = None
    ) -> ChainHead:
        """
        Append records as they are, all of them or none, as `FileStorage.append_lines` does.

        Args:
            after: The head that the first of them follows, and with which this trail ends.
            lines: The records, without their newlines.
            removed: The end of the removed records, for the first ones of an empty trail that begins behind these.

        Raises:
            AuditStorageError: As for `append`, though a record may have the id of another one; also for a record that
                can't be read.
        """
        head = followed(self._path, after, lines)
        begins = removed is not None
        await in_thread(self._writer.write, functools.partial(self._insert, after, lines, begins=begins))
        return head

    async def trouble(self) -> str | None:
        """Return why the file can't be made or written to, if that can be known without trying; else None."""
        return await in_thread(why_not_writable, self._path.parent)

    async def concerns(self) -> dict[str, str]:
        """Return under "capacity" that less than 75 MiB, or a tenth of a small file system, is free for the file."""
        words = await in_thread(self._room.concern)
        return {} if words is None else {"capacity": words}

    # -- in a thread

    def _commit(self, items: Iterable[_Item]) -> list[Seal | None]:
        """Store the *items* whose ids are new, and return the seals in order; None where the id is there already."""
        seals, head = self._writer.write(lambda connection: self._append(connection, items))
        self._known = head
        return seals

    def _insert(
        self, after: ChainHead, lines: Sequence[bytes], connection: sqlite3.Connection, *, begins: bool
    ) -> None:
        head = self._head(connection)
        if head != after and not (begins and head == EMPTY):
            raise elsewhere(self._path, after)
        connection.executemany(_INSERT, rows_of(after, lines))

    def _append(self, connection: sqlite3.Connection, items: Iterable[_Item]) -> tuple[list[Seal | None], ChainHead]:
        head = self._head(connection)
        seals: list[Seal | None] = []
        rows: list[tuple[Any, ...]] = []
        ids: set[str] = set()
        for event_id, body, values in items:
            if event_id in ids or _has(connection, event_id):
                seals.append(None)
                continue
            ids.add(event_id)
            line, seal = chain.seal(body, head.sequence_number + 1, head.checksum)
            head = ChainHead(seal.sequence_number, seal.checksum)
            seals.append(seal)
            rows.append((seal.sequence_number, *values, line.removesuffix(b"\n")))
        connection.executemany(_INSERT, rows)
        return seals, head

    def _head(self, connection: sqlite3.Connection) -> ChainHead:
        """Return the head, after checking its record, and that the newest that is known is still there."""
        head, known = _head_of(connection.execute(_NEWEST).fetchone()), self._known
        if head == known or not known.sequence_number:
            return head
        query = "SELECT sequence_number, line FROM records WHERE sequence_number = ?"
        if _head_of(connection.execute(query, [known.sequence_number]).fetchone()) != known:
            message = f"record {known.sequence_number} is not where it was stored: the chain was cut or replaced"
            raise ChainError(ChainStatus.BROKEN_LINK, message)
        return head


def _unchanged(value: Any) -> Any:
    return value


class _Reader(RowReader):
    """The searches in a *file*, of which the holes have the *name*."""

    dialect = Dialect(parameter="?", contains="instr(line, ?)", unindexed="+", key_of=_unchanged)
    some = f"{_OF_TIMES} LIMIT ?"
    last = f"{_OF_TIMES} AND sequence_number < ? ORDER BY sequence_number DESC LIMIT ?"
    newest = _NEWEST_BEFORE

    def __init__(self, file: TrailFile, name: str) -> None:
        super().__init__(name)
        self._file = file

    def answers(self, question: Question, first: int, before: int, size: int) -> list[Row]:
        # The class of S608 is a text of one's own in SQL; here are only names of columns.
        query = (
            f"SELECT sequence_number, line FROM records WHERE {question.where} ORDER BY sequence_number DESC LIMIT ?"  # noqa: S608
        )
        return self._page(query, *question.within(first, before), size)

    def rows_behind(self, number: int, size: int) -> list[Row]:
        query = "SELECT sequence_number, line FROM records WHERE sequence_number > ? ORDER BY sequence_number LIMIT ?"
        return self._page(query, number, size)

    def numbers(self, query: str, *values: int) -> list[Any]:
        return [number for (number,) in self._file.read(lambda file: file.execute(query, values).fetchall()) or []]

    def heads(self, head: ChainHead) -> Iterator[ChainHead]:
        # Whatever number a row has that was put in front of the first.
        first = _MIN
        while rows := self._page(_EVERYTHING, first, reader.PAGE):
            for number, line, *values in rows:
                head = follow_row(head, number, line, values)
                first = number + 1
            yield head

    def _page(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._file.read(lambda connection: _rows(connection, query, values)) or []


def _has(connection: sqlite3.Connection, event_id: str) -> bool:
    return connection.execute("SELECT 1 FROM records WHERE event_id = ?", [event_id]).fetchone() is not None


def _head_of(row: tuple[int, Any] | None) -> ChainHead:
    """Return the head that the newest record *row* makes; raise ChainError if it is none."""
    if row is None:
        return EMPTY
    number, line = row
    if not isinstance(line, bytes):
        raise ChainError(ChainStatus.UNREADABLE, f"record {number} is not a record of the trail")
    return follow_row(chain.head_before(line), number, line, None)


def _rows(connection: sqlite3.Connection, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Return the rows of a page, or the first of them, if they are long."""
    found: list[tuple[Any, ...]] = []
    size = 0
    cursor = connection.execute(query, values)
    try:
        for row in cursor:
            found.append(row)
            size += len(row[1]) if isinstance(row[1], bytes) else 0
            if size > reader.PAGE_BYTES:
                break
    finally:
        # Else the transaction of the reader stays open, and the write-ahead log can't be emptied.
        cursor.close()
    return found
