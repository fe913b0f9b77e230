"""Reading a trail in the rows of a database: events, and holes where rows are missing or have other rows' records."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Final, TypeAlias

from ...record.chain import ChainError, ChainHead, head_before
from ...record.damage import DamagedRecord
from ...record.events import AuditEvent
from .._holes import head_of_record, item_of, joined, up_to
from ..protocol import EventFilter
from .ranges import ranges, stretches
from .table import Dialect, Question, questions

__all__ = ["PAGE", "PAGE_BYTES", "Row", "RowReader"]

Row: TypeAlias = tuple[int, Any]
"""A number and a line, which is no record if it isn't bytes."""

PAGE: Final = 500
"""The rows of one question to the database; between two, others have their turn, and no transaction is long."""

PAGE_BYTES: Final = 8 << 20
"""A page ends with the row with which its lines have more bytes."""

# Greater than the number of any row.
_MAX: Final = 2**63 - 1
# More than a seal has.
_SEAL_BYTES: Final = 256


class RowReader(ABC):
    """
    The searches of a trail, page by page; all of them block. A subclass asks its database.

    Args:
        name: The name of the trail, for holes.

    Attributes:
        dialect: The SQL of the database for a question.
        some: A query for numbers of records of some times: in any order, and so many.
        last: The same, for the greatest that are smaller than a number.
        newest: A query for the greatest number that is smaller than one.
    """

    dialect: ClassVar[Dialect]
    some: ClassVar[str]
    last: ClassVar[str]
    newest: ClassVar[str]

    def __init__(self, name: str) -> None:
        self.name: str = name

    @abstractmethod
    def answers(self, question: Question, first: int, before: int, size: int) -> list[Row]:
        """Return the newest *size* rows between the two numbers that answer *question*, or the first page of them."""

    @abstractmethod
    def rows_behind(self, number: int, size: int) -> list[Row]:
        """Return the oldest *size* rows with a greater number, or the first page of them."""

    @abstractmethod
    def numbers(self, query: str, *values: int) -> list[Any]:
        """Return the numbers that *query* finds: `some`, `last` or `newest`."""

    @abstractmethod
    def heads(self, head: ChainHead) -> Iterator[ChainHead]:
        """
        Yield the head after every page of the rows behind *head*, which are checked with their columns.

        Raises:
            ChainError: They are no chain.
        """

    def find(self, wanted: EventFilter, limit: int) -> list[AuditEvent | DamagedRecord]:
        """Return the newest *limit* events that are wanted, the newest first, and the holes between them."""
        return _newest_of(
            limit, (self._newest(wanted, question, limit) for question in questions(wanted, self.dialect))
        )

    def read(self, after: int, limit: int) -> list[AuditEvent | DamagedRecord]:
        """Return the oldest *limit* events behind *after*, and the holes between them."""
        return list(up_to(limit, joined(self._items(self._oldest(after, limit), after))))

    def read_lines(self, after: int, limit: int) -> list[bytes]:
        """Return the oldest *limit* records behind *after*, as they are stored."""
        lines = (line for _, line in self._oldest(after, limit) if isinstance(line, bytes) and _is_record(line))
        return list(itertools.islice(lines, max(0, limit)))

    def missing(self, first: int, behind: int) -> DamagedRecord:
        """Return the hole where the rows from *first* to the one in front of *behind* are missing."""
        which = f"record {first} is" if behind == first + 1 else f"records {first} to {behind - 1} are"
        problem = f"{which} missing in front of record {behind}"
        return DamagedRecord(file=self.name, offset=first, size=behind - first, lines=0, problem=problem)

    def _newest(self, wanted: EventFilter, question: Question, limit: int) -> Iterator[AuditEvent | DamagedRecord]:
        low = -1 if wanted.after is None else min(wanted.after, _MAX)
        high = _MAX if wanted.before is None else min(wanted.before, _MAX)
        rows = self._answers(question, low, high, min(limit, PAGE))
        items = self._items(rows, high if question.is_open else None)
        return (item for item in items if isinstance(item, DamagedRecord) or wanted.matches(item))

    def _answers(self, question: Question, low: int, high: int, size: int) -> Iterator[Row]:
        """Yield the rows between *low* and *high* that answer *question*, the newest first."""
        for first, behind in self._ranges(question, low, high):
            before, is_last = behind, False
            while not is_last:
                rows = self.answers(question, first, before, size)
                yield from rows
                is_last = _is_last(rows, size)
                before, size = rows[-1][0] if rows else first, PAGE

    def _ranges(self, question: Question, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Yield ranges between *low* and *high*, without these, that have all answers, the newest first."""
        if question.in_stretches:
            return stretches(low, high, self._newest_before)
        if question.times is None:
            return iter([(low, high)])
        times = question.times
        return ranges(
            low,
            high,
            some=lambda count: self.numbers(self.some, *times, count),
            newest=self._newest_before,
            last=lambda before, count: self.numbers(self.last, *times, before, count),
        )

    def _newest_before(self, high: int) -> int | None:
        return next(iter(self.numbers(self.newest, high)), None)

    def _oldest(self, after: int, limit: int) -> Iterator[Row]:
        """Yield the rows behind *after*, the oldest first."""
        after, size, is_last = min(after, _MAX), min(limit, PAGE), False
        while not is_last:
            rows = self.rows_behind(after, size)
            yield from rows
            is_last = _is_last(rows, size)
            after, size = rows[-1][0] if rows else after, PAGE

    def _items(self, rows: Iterable[Row], bound: int | None) -> Iterator[AuditEvent | DamagedRecord]:
        """
        Yield the items in *rows*, and holes where rows are missing, or have the record of another row.

        Args:
            rows: One after the other, in either order.
            bound: The number from which the rows were asked for; None if not all rows from there on were.
        """
        last: int | None = None
        for index, (number, line) in enumerate(rows):
            if bound is not None:
                # The rows in front of the first of all were removed, perhaps.
                last = last if index or not self._may_lack(bound, number) else bound
                if last is not None and abs(number - last) > 1:
                    yield self.missing(min(number, last) + 1, max(number, last))
                last = number
            given = line if isinstance(line, bytes) else b""
            is_placed = not given or b',"sequence_number":%d,"' % number in given[-_SEAL_BYTES:]
            if not is_placed and (head := head_of_record(given)) is not None:
                problem = f"record {head.sequence_number} is in the row of record {number}"
                yield DamagedRecord(file=self.name, offset=number, size=0, lines=0, problem=problem)
            yield item_of(given, file=self.name, offset=number, size=1, number=number)

    def _may_lack(self, bound: int, number: int) -> bool:
        """Return whether rows are missing if the first row from *bound* on is that of *number*, not the next one."""
        if abs(number - bound) == 1 or bound == _MAX:
            return False
        found = self._newest_before(bound + 1 if bound < number else _MAX)
        return found is not None and (bound < number or found >= bound)


def _newest_of(limit: int, answers: Iterable[Iterable[AuditEvent | DamagedRecord]]) -> list[AuditEvent | DamagedRecord]:
    """
    Return the newest *limit* events of all *answers*, the newest first, and the holes between them.

    Args:
        limit: How many at most; no answer is followed further than that.
        answers: Each with the newest first. What several of them have is returned once.
    """
    # By number and id; of one number, the hole comes first.
    found: dict[tuple[int, bool, str], AuditEvent | DamagedRecord] = {}
    for items in answers:
        for item in up_to(limit, joined(items)):
            if isinstance(item, AuditEvent):
                found[item.sequence_number or 0, False, item.event_id] = item
            else:
                found[item.offset, True, ""] = item
    return list(up_to(limit, joined(found[key] for key in sorted(found, reverse=True))))


def _is_last(rows: list[Row], size: int) -> bool:
    """Return whether nothing is behind the page *rows*, of at most *size* rows: it is not full, and not cut short."""
    return len(rows) < size and sum(len(line) for _, line in rows if isinstance(line, bytes)) < PAGE_BYTES


def _is_record(line: bytes) -> bool:
    """Return whether *line* claims to have a place in the chain."""
    try:
        head_before(line)
    except ChainError:
        return False
    return True
