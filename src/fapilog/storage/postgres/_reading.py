"""Reading a trail in PostgreSQL, page by page, so that no transaction is long and in the way of a vacuum."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from ...record.chain import EMPTY, AuditChainVerificationResult, ChainError, ChainHead, ChainStatus
from ...record.damage import DamagedRecord
from ...record.events import AuditEvent
from ...record.values import escaped
from .._anchor import Anchor
from .._copied import is_record
from .._holes import MAX_NUMBER, bounds_of, item_of, items_of_rows, joined, newest_of, up_to, wanted_of
from .._ranges import ranges, stretches
from .._rows import COLUMNS, Question, follow_row
from .._verdicts import verdict_on
from ..protocol import EventFilter
from ._searching import keys_of, questions_of
from .connection import Link, Server

__all__ = ["Reading"]

# Of one question to the server.
_PAGE: Final = 500
_PAGE_BYTES: Final = 8 << 20
_MIN: Final = -(2**63)

# The rows of a page whose lines have no more bytes than `_PAGE_BYTES`, and the first in any case. The size of a line is
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


class Reading:
    """
    The searches of a trail; all of them block.

    Args:
        link: The connection.
        trail: The name of the trail.
        server: The server of the connection.
        timeout: Seconds that a page may take.
    """

    def __init__(self, link: Link, trail: str, server: Server, timeout: float) -> None:
        self.link = link
        self._trail = trail
        self._server = server
        self._timeout = timeout

    @property
    def place(self) -> str:
        """The server and the trail, for messages; without a secret."""
        return f"{self._server}, trail {escaped(self._trail)!r}"

    @property
    def name(self) -> str:
        """The name of the trail, for holes."""
        return f"trail {self._trail}"

    def find(self, wanted: EventFilter, limit: int) -> list[AuditEvent | DamagedRecord]:
        """Return the newest *limit* events that are wanted, the newest first, and the holes between them."""
        return newest_of(limit, (self._newest(wanted, question, limit) for question in questions_of(wanted)))

    def read(self, after: int, limit: int) -> list[AuditEvent | DamagedRecord]:
        """Return the oldest *limit* events behind *after*, and the holes between them."""
        return list(up_to(limit, joined(self._items(self._oldest(after, limit), after))))

    def read_lines(self, after: int, limit: int) -> list[bytes]:
        """Return the oldest *limit* lines behind *after*."""
        lines = (line for _, line in self._oldest(after, limit) if is_record(line))
        return list(itertools.islice(lines, max(0, limit)))

    def verify(self, progress: Callable[[int], None] | None, front: Anchor | None) -> AuditChainVerificationResult:
        """Check the chain behind *front*, its head and its columns."""
        return verdict_on(self.place, self._heads(EMPTY if front is None else front.head), progress, front)

    def _heads(self, head: ChainHead) -> Iterator[ChainHead]:
        # Whatever number a row has that was put in front of the first.
        first = _MIN
        while True:
            rows = self._rows(_CHECKED, (self._trail, self._trail, first, _PAGE, _PAGE_BYTES))
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

    def _newest(self, wanted: EventFilter, question: Question, limit: int) -> Iterator[AuditEvent | DamagedRecord]:
        """Return the records that are wanted, and answers to *question*, the newest first, read page by page."""
        low, high = bounds_of(wanted)
        query = _IN_BYTES.format(
            columns="sequence_number, line", where=f"trail = %s AND {question.where}", order="DESC"
        )
        rows = self._rows_backwards(query, question, (low, high), min(limit, _PAGE))
        return wanted_of(self._items(rows, high if question.is_open else None), wanted)

    def _rows_backwards(
        self, query: str, question: Question, bounds: tuple[int, int], size: int
    ) -> Iterator[tuple[int, Any]]:
        for first, behind in self._ranges(question, *bounds):
            before, is_last = behind, False
            while not is_last:
                rows = self._rows(query, (self._trail, *question.within(first, before), size, _PAGE_BYTES))
                yield from rows
                is_last = _is_last(rows, size)
                before, size = rows[-1][0] if rows else first, _PAGE

    def _items(self, rows: Iterable[tuple[int, Any]], bound: int | None) -> Iterator[AuditEvent | DamagedRecord]:
        return items_of_rows(rows, self._item, file=self.name, bound=bound, newest=self._newest_before)

    def _ranges(self, question: Question, low: int, high: int) -> Iterator[tuple[int, int]]:
        if question.in_stretches:
            return stretches(low, high, self._newest_before)
        if question.times is None:
            return iter([(low, high)])
        times = question.times
        return ranges(
            low,
            high,
            some=lambda count: self._numbers(_SOME, *times, count),
            newest=self._newest_before,
            last=lambda before, count: self._numbers(_LAST, *times, before, count),
        )

    def _newest_before(self, high: int) -> int | None:
        return next(iter(self._numbers(_NEWEST, high)), None)

    def _numbers(self, query: str, *values: int) -> list[Any]:
        return [number for (number,) in self._rows(query, (self._trail, *values))]

    def _oldest(self, after: int, limit: int) -> Iterator[tuple[Any, ...]]:
        """Yield the rows behind *after*, the oldest first, page by page."""
        after, size, is_last = min(after, MAX_NUMBER), min(limit, _PAGE), False
        while not is_last:
            rows = self._rows(_OLDEST, (self._trail, after, size, _PAGE_BYTES))
            yield from rows
            is_last = _is_last(rows, size)
            after, size = rows[-1][0] if rows else after, _PAGE

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        # The class of S608 is a text of one's own in SQL; here are only names of columns.
        return self.link.call(
            f"read trail {self._trail!r}",
            lambda connection: connection.execute(query.encode(), values, binary=True).fetchall(),
            self._timeout,
        )

    def _item(self, number: int, line: bytes) -> AuditEvent | DamagedRecord:
        return item_of(line, file=self.name, offset=number, size=1, number=number)


def _is_last(rows: list[tuple[Any, ...]], size: int) -> bool:
    """Return whether nothing is behind the page *rows*, of at most *size* rows: it is not full, and not cut short."""
    return len(rows) < size and sum(len(line) for _, line in rows) < _PAGE_BYTES


def _require_head(head: ChainHead, number: int | None, checksum: str | None) -> None:
    """Raise ChainError if the row of the trail does not say that *head* is its newest record."""
    if (number or 0, checksum) == head:
        return
    if number is None or number <= head.sequence_number:
        message = f"the head of the trail is not record {head.sequence_number}, its newest: the head was changed"
        raise ChainError(ChainStatus.BROKEN_LINK, message, ChainHead(max(0, head.sequence_number - 1), None))
    message = f"record {head.sequence_number + 1} is missing: the head of the trail is record {number}"
    raise ChainError(ChainStatus.GAP, message, head)
