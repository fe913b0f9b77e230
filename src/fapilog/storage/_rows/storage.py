"""The storages in a database, as far as they are alike: how a trail in rows is read and verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ...record.chain import EMPTY, AuditChainVerificationResult
from ...record.damage import DamagedRecord
from ...record.errors import AuditStorageError
from ...record.events import AuditEvent
from ...record.privacy import Uncopied, without_frames
from ...tasks.threads import in_thread
from .._anchor import front_of
from .._verdicts import unreadable, verdict_on
from ..protocol import AuditStorage, EventFilter
from .reader import RowReader

__all__ = ["RowStorage"]


class _Connection(Protocol):
    def close(self) -> None: ...


class RowStorage(Uncopied, AuditStorage):
    """
    A chain in the rows of a database; its text says where, for messages.

    Args:
        reader: Reads the rows.
        connections: All that are open between calls.
    """

    #: Without an event loop every method blocks the calling thread, and waits for nothing else.
    runs_anywhere = True

    def __init__(self, reader: RowReader, connections: Sequence[_Connection]) -> None:
        self._reader = reader
        self._connections = connections
        # The newest record that this process knows: one that is gone later was taken away.
        self._known = EMPTY

    @without_frames
    async def find(self, wanted: EventFilter, limit: int) -> list[AuditEvent | DamagedRecord]:
        """
        Return the newest *limit* events that are wanted, the newest first.

        A row that is no record, and that may be wanted, is a `DamagedRecord` in its place, whose *offset* is the number
        of the row, and whose *size* is the number of rows.

        Raises:
            AuditStorageError: The database can't be read.
        """
        found = await in_thread(self._reader.find, wanted, limit)
        is_open = wanted.numbered(after=None, before=None) == EventFilter()
        if not is_open or sum(isinstance(item, AuditEvent) for item in found) >= limit:
            return found
        number = _number_of(found[-1]) if found else None
        if not found and wanted.before and await self.read_lines(wanted.before - 1, 1):
            # The page before has ended with the oldest.
            number = wanted.before
        return [*found, *await self._missing_in_front(wanted.after or 0, number)]

    @without_frames
    async def read(self, after: int, limit: int) -> list[AuditEvent | DamagedRecord]:
        """
        Return the oldest *limit* events whose sequence number is greater than *after*, the oldest first.

        A row that is no record is as `find` has it.

        Raises:
            AuditStorageError: The database can't be read.
        """
        found = await in_thread(self._reader.read, after, limit)
        return [*await self._missing_in_front(after, _number_of(found[0]) if found else None), *found]

    @without_frames
    async def read_lines(self, after: int, limit: int) -> list[bytes]:
        """
        Do as `read`, and return the records as they are stored, without a newline.

        Raises:
            AuditStorageError: The database can't be read.
        """
        return await in_thread(self._reader.read_lines, after, limit)

    @without_frames
    async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        """
        Check the whole chain, and that the other columns of its rows agree with the records; may run beside writers.

        Args:
            progress: Called in a worker thread, every few hundred records, with how many were checked so far.
        """
        try:
            front = await front_of(self)
        except AuditStorageError as error:
            return unreadable(error)
        heads = self._reader.heads(EMPTY if front is None else front.head)
        return await in_thread(verdict_on, self, heads, progress, front)

    async def aclose(self) -> None:
        """Close the connections; the next call opens them again."""
        await in_thread(self._close)

    def _close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._known = EMPTY

    async def _missing_in_front(self, after: int, number: int | None) -> Sequence[DamagedRecord]:
        """Return the hole in front of record *number*, the first behind *after*, if records are missing there."""
        if number is None or number <= max(0, after) + 1:
            return []
        front = await front_of(self)
        first = max(after, 0 if front is None else front.sequence_number) + 1
        return [self._reader.missing(first, number)] if first < number else []


def _number_of(item: AuditEvent | DamagedRecord) -> int | None:
    return item.sequence_number if isinstance(item, AuditEvent) else None
