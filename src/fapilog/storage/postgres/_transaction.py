"""
A transaction that appends to a trail in PostgreSQL: its beginning, with the head locked, and its end.

While one process commits, all other processes wait for the row of the head: an event costs its share of a commit,
whatever the number of processes.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from ...record import chain
from ...record.chain import EMPTY, ChainError, ChainHead, ChainStatus, Seal
from .._rows.table import COLUMNS
from ._schema import COLUMN_TYPES
from .connection import Connection

__all__ = ["Transaction"]

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


class Transaction:
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
