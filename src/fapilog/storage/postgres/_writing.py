"""
Appending to a trail in PostgreSQL: one transaction for all events that wait, or for some records that are copied.

All that is slow is done before: the records are encoded by then. The head of the trail is locked first, and the events
are taken after that, so that events that come while another process has its turn are in this transaction too. Under the
lock they get their places, are sent by COPY, and the head is moved. While one process commits, all other processes wait
for the row of the head: an event costs its share of a commit, whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import psycopg
from msgspec.structs import replace
from psycopg import sql
from psycopg.pq import TransactionStatus

from ...record import chain
from ...record.chain import EMPTY, ChainError, ChainHead, ChainStatus, Seal
from ...record.texts import escaped
from .._rows.table import COLUMNS
from ..copying import elsewhere, events_of
from ..protocol import KeptAlert, is_head
from ._schema import COLUMN_TYPES, keys_of
from .alerts import notify, put_alerts
from .connection import Connection

__all__ = ["Batch", "Item", "Lines"]

_TYPES: Final = ("text", "int8", *COLUMN_TYPES.values(), "bytea", "int8")
_COPY: Final = (
    f"COPY fapilog.records (trail, sequence_number, {', '.join(COLUMNS)}, line, repeated) FROM STDIN (FORMAT BINARY)"
).encode()
_BEGIN: Final = """\
{begin};
SELECT sequence_number, checksum FROM fapilog.heads WHERE trail = {trail} FOR UPDATE;
SELECT sequence_number, line FROM fapilog.records WHERE trail = {trail} AND sequence_number IN ({known},
    (SELECT sequence_number FROM fapilog.heads WHERE trail = {trail} AND sequence_number <> {known}))
"""
_MAKE_HEAD: Final = "INSERT INTO fapilog.heads (trail) VALUES ({trail}) ON CONFLICT DO NOTHING"
_COMMIT: Final = """\
UPDATE fapilog.heads SET sequence_number = {number}, checksum = {checksum} WHERE trail = {trail};
COMMIT
"""
# Of records with one id the first alone.
_SAME: Final = """\
SELECT event_id, sequence_number, line FROM fapilog.records WHERE trail = %s AND event_id = ANY(%s) AND repeated = 0
"""
_IDS: Final = "SELECT event_id FROM fapilog.records WHERE trail = %s AND event_id = ANY(%s) AND repeated = 0"
_LINE: Final = "SELECT line FROM fapilog.records WHERE trail = %s AND sequence_number = %s"

# Of the records of one transaction. All that wait, in a storm or for a server that was away, may be more than can be
# sent in time: then all of them would fail, and so would the even more that came meanwhile.
_MOST_BYTES: Final = 8 << 20


class _Transaction:
    """
    A transaction that is tried until it is known whether it has stored its records.

    Args:
        trail: The name of the trail.
        known: The newest record that this process has seen in it.
    """

    def __init__(self, trail: str, known: ChainHead) -> None:
        self._trail = trail
        self._known = known
        # The places that the events had in transactions whose end is not known.
        self._tried: list[dict[str, Seal]] = []
        # Whether to look for the ids first, as one of them may be there.
        self._looks = False

    @property
    def is_unknown(self) -> bool:
        """Whether the records may be stored, although no try has succeeded."""
        return bool(self._tried)

    def _begin(self, connection: Connection) -> ChainHead:
        """Begin the transaction, wait for the head, and return it when it is checked."""
        parts = {
            "begin": connection.beginning(),
            "trail": sql.Literal(self._trail),
            "known": sql.Literal(self._known.sequence_number),
        }
        found = _results(connection, sql.SQL(_BEGIN).format(**parts))
        if not found[-2]:
            connection.execute("ROLLBACK")
            connection.execute(sql.SQL(_MAKE_HEAD).format(**parts))
            found = _results(connection, sql.SQL(_BEGIN).format(**parts))
        head = ChainHead(*found[-2][0])
        lines: dict[int, bytes] = dict(found[-1])
        for expected in {head, self._known} - {EMPTY}:
            _require(expected, lines.get(expected.sequence_number))
        if head.sequence_number < self._known.sequence_number:
            raise ChainError(ChainStatus.BROKEN_LINK, f"the head is before record {self._known.sequence_number}")
        return head

    def _copy(self, connection: Connection, rows: list[tuple[Any, ...]]) -> None:
        try:
            with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
                copy.set_types(_TYPES)
                for row in rows:
                    copy.write_row(row)
        except psycopg.errors.UniqueViolation:
            if self._looks:
                message = f"there are records behind record {rows[0][1] - 1}, which is the head"
                raise ChainError(ChainStatus.GAP, message) from None
            # Rare, so that it is cheaper to try than to look every time.
            self._looks = True
            raise _IdIsThereError from None

    def _commit(self, connection: Connection, head: ChainHead, placed: dict[str, Seal]) -> None:
        parts = {
            "number": sql.Literal(head.sequence_number),
            "checksum": sql.Literal(head.checksum),
            "trail": sql.Literal(self._trail),
        }
        # From here on the events may be stored, even if the answer is an error. The next try waits for the head, until
        # this transaction has ended one way or the other, and then looks.
        self._tried.append(placed)
        self._looks = True
        try:
            connection.execute(sql.SQL(_COMMIT).format(**parts))
        except psycopg.Error:
            if connection.info.transaction_status in (TransactionStatus.INERROR, TransactionStatus.IDLE):
                # The server has answered, and refused.
                self._tried.pop()
            raise


class Item(NamedTuple):
    """
    An event that is to be stored.

    Attributes:
        event_id: The key of its id.
        body: Its record up to its place in the chain.
        values: The keys that it is found by.
        once: Whether to look for its id first.
        alerts: The alerts about it, which are stored in the same transaction.
    """

    event_id: str
    body: bytes
    values: tuple[Any, ...]
    once: bool
    alerts: Sequence[KeptAlert] = ()


class Batch(_Transaction):
    """
    The events that wait, in the places that are next.

    Args:
        trail: The name of the trail.
        known: The newest record that this process has seen in it.
        items: The events, which are taken when the head is locked.
    """

    def __init__(self, trail: str, known: ChainHead, items: Iterable[Item]) -> None:
        super().__init__(trail, known)
        self._waiting = items
        self._items: list[Item] | None = None

    def append(self, connection: Connection) -> tuple[list[Seal | None], ChainHead]:
        """
        Store the events whose ids are new; return their places, None where the id is there already, and the new head.

        Raises:
            psycopg.Error: It failed. It may be called again, with another connection.
            ChainError: The stored records are not a chain that ends at its head.
        """
        head = self._begin(connection)
        if self._items is None:
            self._items = list(_of_one_transaction(self._waiting))
        looks = self._looks or any(item.once for item in self._items)
        there = self._there(connection, [item.event_id for item in self._items]) if looks else {}
        results: list[Seal | None] = []
        rows: list[tuple[Any, ...]] = []
        alerts: list[KeptAlert] = []
        placed: dict[str, Seal] = {}
        for event_id, body, values, _, kept in self._items:
            if event_id in there:
                # None for the second of two events with one id.
                results.append(there.pop(event_id, None))
                there[event_id] = None
                continue
            line, seal = chain.seal(body, head.sequence_number + 1, head.checksum)
            head = ChainHead(seal.sequence_number, seal.checksum)
            results.append(seal)
            rows.append((self._trail, seal.sequence_number, *values, line.removesuffix(b"\n"), 0))
            alerts += (replace(each, event=chain.sealed(each.event, seal)) for each in kept)
            placed[event_id] = seal
            there[event_id] = None
        if not rows:
            connection.execute("ROLLBACK")
            return results, head
        self._copy(connection, rows)
        put_alerts(connection, self._trail, alerts)
        self._commit(connection, head, placed)
        if alerts:
            notify(connection, self._trail)
        return results, head

    def _there(self, connection: Connection, ids: list[str]) -> dict[str, Seal | None]:
        """Return which of *ids* are there, with the place of a record if it is the very record of an earlier try."""
        there: dict[str, Seal | None] = {}
        for event_id, number, line in connection.execute(_SAME, [self._trail, ids]):
            seals = [placed[event_id] for placed in self._tried if event_id in placed]
            end = bytes(line)
            mine = [seal for seal in seals if seal.sequence_number == number and seal.checksum.encode() in end[-80:]]
            there[event_id] = mine[0] if mine else None
        if not any(there.values()):
            # The head is ours, so that the earlier transactions have ended: they stored nothing.
            self._tried.clear()
        return there


class Lines(_Transaction):
    """
    Records that have their places already: all of them are stored in these, or none is.

    Args:
        trail: The name of the trail.
        known: The newest record that this process has seen in it.
        after: The head that the first of them follows.
        lines: The records, which make a chain; at least one.
        end: Their head.
        begins: Whether an empty trail may begin with them, behind *after*.

    Raises:
        AuditStorageError: One is of a kind that can't be read.
    """

    def __init__(
        self, trail: str, known: ChainHead, after: ChainHead, lines: Sequence[bytes], end: ChainHead, *, begins: bool
    ) -> None:
        super().__init__(trail, known)
        self._after = after
        self._end = end
        self._begins = begins
        self._lines = lines
        self._keys = [keys_of(event) for event in events_of(lines)]

    def append(self, connection: Connection) -> tuple[list[Seal | None], ChainHead]:
        """
        Store the records; return no places, and the new head.

        Raises:
            psycopg.Error: It failed. It may be called again, with another connection.
            ChainError: The stored records are not a chain that ends at its head.
            AuditStorageError: The trail does not end with the head that they follow.
        """
        head = self._begin(connection)
        if self._tried and self._are_there(connection):
            connection.execute("ROLLBACK")
            return [], head
        # The head is ours, so that the earlier transactions have ended: they stored nothing.
        self._tried.clear()
        if head != self._after and not (self._begins and head == EMPTY):
            raise elsewhere(f"trail {escaped(self._trail)!r}", self._after)
        ids = self._ids_of_others(connection) if self._looks else set()
        rows: list[tuple[Any, ...]] = []
        numbers = range(self._after.sequence_number + 1, self._end.sequence_number + 1)
        for number, line, keys in zip(numbers, self._lines, self._keys, strict=True):
            rows.append((self._trail, number, *keys, line, number if keys[0] in ids else 0))
            ids.add(keys[0])
        self._copy(connection, rows)
        self._commit(connection, self._end, {})
        return [], self._end

    def _are_there(self, connection: Connection) -> bool:
        found = connection.execute(_LINE, [self._trail, self._end.sequence_number]).fetchall()
        return is_head([bytes(line) for (line,) in found], self._end)

    def _ids_of_others(self, connection: Connection) -> set[str]:
        """Return the ids of the records that are there already, of other records."""
        rows = connection.execute(_IDS, [self._trail, [keys[0] for keys in self._keys]])
        return {event_id for (event_id,) in rows}


def _of_one_transaction(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the first *items*, up to a size that a server that answers takes well within the time."""
    room = _MOST_BYTES
    for item in items:
        yield item
        room -= len(item.body)
        if room <= 0:
            return


class _IdIsThereError(psycopg.OperationalError):
    """Raised to have the transaction tried again."""


def _results(connection: Connection, query: sql.Composed) -> list[list[tuple[Any, ...]]]:
    """Return the rows of all statements of *query*, which go to the server, and come back, at once."""
    with connection.cursor() as cursor:
        cursor.execute(query)
        found = [cursor.fetchall() if cursor.description else []]
        while cursor.nextset():
            found.append(cursor.fetchall() if cursor.description else [])
    return found


def _require(head: ChainHead, line: bytes | None) -> None:
    """Raise ChainError if *line* is not the record that makes *head*."""
    number = head.sequence_number
    if line is None:
        message = f"record {number} is not where it was stored: the chain was cut or replaced"
        raise ChainError(ChainStatus.BROKEN_LINK, message)
    if chain.follow(chain.head_before(line), [line]) != head:
        raise ChainError(ChainStatus.BROKEN_LINK, f"record {number} is not the one that was stored")
