"""Reading a trail in PostgreSQL, page by page, so that no transaction is long and in the way of a vacuum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ...record.chain import ChainError, ChainHead, ChainStatus
from .._rows import reader
from .._rows.reader import Row, RowReader
from .._rows.table import COLUMNS, Dialect, Question, follow_row
from ._schema import key_of, keys_of
from .connection import Link

__all__ = ["Reader"]

_MIN: Final = -(2**63)

# The rows of a page whose lines have no more bytes than `PAGE_BYTES`, and the first in any case. The size of a line is
# known to the server without reading it.
_IN_BYTES: Final = """\
SELECT {columns} FROM (
    SELECT *, sum(octet_length(line)) OVER (ORDER BY sequence_number {order}) - octet_length(line) AS bytes_before
    FROM (SELECT * FROM fapilog.records WHERE {where} ORDER BY sequence_number {order} LIMIT %s) AS page
) AS page WHERE bytes_before < %s ORDER BY sequence_number {order}
"""
_OLDEST: Final = _IN_BYTES.format(
    columns="sequence_number, line", where="trail = %s AND sequence_number > %s", order="ASC"
)
# Of the records with one id the first has 0, and each other its own number. An id is not looked for in the others.
_IS_NUMBERED: Final = """\
repeated = 0 OR (repeated = sequence_number AND EXISTS (
    SELECT FROM fapilog.records AS first WHERE first.trail = page.trail AND first.event_id = page.event_id
        AND first.repeated = 0 AND first.sequence_number < page.sequence_number
))
"""
# With the head as it is at the moment of the same snapshot.
_CHECKED: Final = """\
SELECT heads.sequence_number, heads.checksum, page.* FROM (SELECT 1) AS one
LEFT JOIN fapilog.heads AS heads ON heads.trail = %s
LEFT JOIN LATERAL ({page}) AS page ON true
""".format(  # noqa: S608
    page=_IN_BYTES.format(
        columns=f"sequence_number, line, {_IS_NUMBERED} AS is_numbered, {', '.join(COLUMNS)}",
        where="trail = %s AND sequence_number >= %s",
        order="ASC",
    )
)
_OF_TIMES: Final = 'SELECT sequence_number FROM fapilog.records WHERE trail = %s AND "timestamp" BETWEEN %s AND %s'
# The order keeps the planner from another index than that of the times.
_SOME: Final = f'{_OF_TIMES} ORDER BY "timestamp" LIMIT %s'
# The fence keeps the planner from walking all records by their numbers to find the last of that time.
_LAST: Final = (
    f"SELECT sequence_number FROM ({_OF_TIMES} AND sequence_number < %s OFFSET 0) AS of_times"  # noqa: S608
    " ORDER BY sequence_number DESC LIMIT %s"
)
_NEWEST: Final = "SELECT max(sequence_number) FROM fapilog.records WHERE trail = %s AND sequence_number < %s"


class Reader(RowReader):
    """
    The searches of a trail; all of them block.

    Args:
        link: The connection.
        trail: The name of the trail.
        timeout: Seconds that a page may take.
    """

    dialect = Dialect(parameter="%s", contains="position(%s IN line) > 0", unindexed="", key_of=key_of)
    some = _SOME
    last = _LAST
    newest = _NEWEST

    def __init__(self, link: Link, trail: str, timeout: float) -> None:
        super().__init__(f"trail {trail}")
        self._link = link
        self._trail = trail
        self._timeout = timeout

    def answers(self, question: Question, first: int, before: int, size: int) -> list[Row]:
        """Do as `RowReader` says."""
        query = _IN_BYTES.format(
            columns="sequence_number, line", where=f"trail = %s AND {question.where}", order="DESC"
        )
        return self._rows(query, *question.within(first, before), size, reader.PAGE_BYTES)

    def rows_behind(self, number: int, size: int) -> list[Row]:
        """Do as `RowReader` says."""
        return self._rows(_OLDEST, number, size, reader.PAGE_BYTES)

    def numbers(self, query: str, *values: int) -> list[Any]:
        """Do as `RowReader` says."""
        return [number for (number,) in self._rows(query, *values)]

    def heads(self, head: ChainHead) -> Iterator[ChainHead]:
        """Do as `RowReader` says, and check that the newest is the head of the trail."""
        # Whatever number a row has that was put in front of the first.
        first = _MIN
        while True:
            rows = self._rows(_CHECKED, self._trail, first, reader.PAGE, reader.PAGE_BYTES)
            if rows[0][2] is None:
                _require_head(head, rows[0][0], rows[0][1])
                return
            for _, _, number, line, is_numbered, *values in rows:
                before, head = head, follow_row(head, number, line, values, keys_of)
                if not is_numbered:
                    message = f"record {number} was altered: its column repeated differs from the records before it"
                    raise ChainError(ChainStatus.ALTERED, message, before)
                first = number + 1
            yield head

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        # The class of S608 is a text of one's own in SQL; here are only names of columns.
        return self._link.call(
            f"read trail {self._trail!r}",
            lambda connection: connection.execute(query.encode(), (self._trail, *values), binary=True).fetchall(),
            self._timeout,
        )


def _require_head(head: ChainHead, number: int | None, checksum: str | None) -> None:
    """Raise ChainError if the row of the trail does not say that *head* is its newest record."""
    if (number or 0, checksum) == head:
        return
    if number is None or number <= head.sequence_number:
        message = f"the head of the trail is not record {head.sequence_number}, its newest: the head was changed"
        raise ChainError(ChainStatus.BROKEN_LINK, message, ChainHead(max(0, head.sequence_number - 1), None))
    message = f"record {head.sequence_number + 1} is missing: the head of the trail is record {number}"
    raise ChainError(ChainStatus.GAP, message, head)
