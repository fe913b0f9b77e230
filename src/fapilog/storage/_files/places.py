"""
The lines of files that are read, by their places: what is damaged, altered, missing or moved there.

A record is read where it stands. One whose bytes are whole has its own number there, also if it was moved; an altered
one has that of its place, since it may claim any. So numbers need not be in order, and whoever reads page by page goes
on from the place of the last record, not from its number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeAlias

from ...record.chain import ChainHead
from ...record.damage import DamagedRecord
from ...record.events import AuditEvent
from .._holes import head_of_record, item_of, joined, up_to
from .lines import Lines

__all__ = ["Backwards", "Beginning", "Item", "Line", "OpenFile", "Page", "Place"]
__all__ += ["broken", "missing", "number_behind", "numbered"]

Item: TypeAlias = AuditEvent | DamagedRecord


class Place(NamedTuple):
    """Where a line begins, or would, and the number that it has there if that is known: a page goes on from there."""

    file: str
    offset: int
    number: int | None = None


class Page(NamedTuple):
    """Some items of a trail, and the place from which the next page goes on; None if there are no more."""

    items: list[Item]
    place: Place | None

    @classmethod
    def of(cls, limit: int, found: Iterable[tuple[Item, Place]]) -> Page:
        """Return the page up to the event that is the last of *limit*; one that stands there twice is in it once."""
        seen: dict[tuple[int | None, str | None], list[AuditEvent]] = {}
        last: Place | None = None

        def items() -> Iterator[Item]:
            nonlocal last
            for item, place in found:
                if isinstance(item, AuditEvent):
                    # An altered copy has the number and the checksum too, and must not hide the record.
                    same = seen.setdefault((item.sequence_number, item.checksum), [])
                    if item in same:
                        continue
                    same.append(item)
                    last = place
                yield item

        read = list(up_to(limit, joined(items())))
        return cls(read, last if sum(map(len, seen.values())) == limit else None)


class Line(NamedTuple):
    """A line, and its place."""

    file: str
    offset: int
    text: bytes

    @property
    def end(self) -> int:
        """The offset behind its newline, whether it has one or not."""
        return self.offset + len(self.text) + 1

    def item(self, number: int | None = None) -> AuditEvent | DamagedRecord:
        """Return the event in the line, with that *number* unless it is None; or the hole that the line is."""
        return item_of(self.text, file=self.file, offset=self.offset, size=len(self.text) + 1, number=number)


class OpenFile(NamedTuple):
    """A file that is read: open, its name, its lines, and whether nothing is appended to it any more."""

    fd: int
    name: str
    lines: Lines
    is_closed: bool

    @property
    def is_compressed(self) -> bool:
        """Whether it was decompressed for this time alone, into a file without a name."""
        return not os.fstat(self.fd).st_nlink

    def is_complete(self, start: int, end: int) -> bool:
        """Return whether nothing is added any more to the block at *start*, of lines that end at *end*."""
        is_whole = start in self.lines.whole_blocks(start, end)
        return not self.is_compressed and (is_whole or (self.is_closed and end == self.lines.end_of_records()))

    def beginning(self) -> Beginning | None:
        """Return where it begins; None if its first line is no whole record."""
        head = self.lines.start()
        return None if head is None else Beginning(self.name, head)


class Beginning(NamedTuple):
    """The name of a file, and the head that its first record follows."""

    name: str
    head: ChainHead


class Backwards:
    """
    The lines of one file as they are read backwards: with their numbers, and where these are not in order.

    Args:
        file: The file.
        known: Where the line behind the first one that is read begins, and its number; None if that is not known.
        at_end: Returns where the lines of the file end, and the number that the next one would have.
    """

    def __init__(self, file: OpenFile, known: tuple[int, int] | None, at_end: Callable[[], tuple[int, int]]) -> None:
        self._file = file
        self._at_end = at_end
        # Where a line begins, or would, and its number: from there the lines in front are counted, each of them once.
        self._counted = known
        # Of the line behind the next one that is read, if all are read.
        self._behind = known
        self._is_event = known is not None

    def read(self, line: Line, item: Item) -> Iterator[Item]:
        """Yield the *item* in *line* with its number there; first, if the next record does not follow it, that hole."""
        offset, number = self._behind or (-1, 0)
        expected = number - 1 if line.end >= offset >= 0 else None
        found = _claimed(item)
        if found is not None and found != expected:
            # Hashed only if need be.
            if head_of_record(line.text) is None:
                found = self._number_at(line.offset) if expected is None else expected
                item = line.item(found)
            elif expected is not None and self._is_event and (hole := broken(line.file, offset, found + 1, number)):
                yield hole
        found = expected if found is None else found
        self._behind = None if found is None else (line.offset, found)
        self._is_event = isinstance(item, AuditEvent)
        yield item

    @property
    def first(self) -> int | None:
        """The number of the first line of the file, if it was read last."""
        return None if self._behind is None or self._behind[0] else self._behind[1]

    def _number_at(self, offset: int) -> int:
        """Return the number of the line at *offset*, counted back from the next record whose checksum is right."""
        lines, counted = self._file.lines, self._counted or self._at_end()
        place, number = lines.first_record(offset, counted[0]) or counted
        number -= lines.count(offset, place)
        self._counted = offset, number
        return number


def number_behind(lines: Lines, offset: int) -> int | None:
    """Return the number of the line at *offset*, counted from the last record before it whose checksum is right."""
    for count, (_, line) in enumerate(lines.backwards(offset), 1):
        if (head := head_of_record(line)) is not None:
            return head.sequence_number + count
    return None


def numbered(lines: Iterable[Line], number: int | None, *, is_behind: bool) -> Iterator[tuple[Line, Item, int | None]]:
    """
    Yield consecutive *lines*, the oldest first, with their items, and the numbers of their places if known.

    Where a whole record does not follow the event before it, there is a hole between the two, without a number.

    Args:
        lines: The lines.
        number: The number of the first line; None to believe that line.
        is_behind: Whether that is the number after an event's, or that of the first record of a trail.
    """
    for line in lines:
        item = line.item()
        claimed = _claimed(item)
        # Hashed only if need be: a record whose checksum is right is believed, and other lines are counted from it.
        if number is None or (claimed != number and head_of_record(line.text) is not None):
            if is_behind and number and claimed and (hole := broken(line.file, line.offset, number, claimed)):
                yield line, hole, None
            number = claimed
        elif claimed not in (None, number):
            item = line.item(number)
        yield line, item, number
        number, is_behind = None if number is None else number + 1, isinstance(item, AuditEvent)


def _claimed(item: Item) -> int | None:
    return item.sequence_number if isinstance(item, AuditEvent) else item.head and item.head.sequence_number


def missing(lines: Lines, end: int, behind: Beginning | None) -> DamagedRecord | None:
    """Return the hole between *lines*, which end at *end*, and the file *behind* them; None if that follows."""
    if behind is None or not end or lines.end_with(behind.head, end):
        return None
    # Of the last line alone: if it can't be read, it is a hole in its own place.
    last = next((head_of_record(line) for _, line in lines.backwards(end)), None)
    return last and broken(behind.name, 0, last.sequence_number + 1, behind.head.sequence_number + 1)


def broken(name: str, offset: int, expected: int, number: int) -> DamagedRecord | None:
    """Return the hole in front of record *number*, at *offset* of the file *name*, if it is not the *expected* one."""
    if number == expected:
        return None
    if offset or number < expected:
        problem = f"record {number} stands behind record {expected - 1}"
    else:
        which = f"record {expected} is" if number == expected + 1 else f"records {expected} to {number - 1} are"
        problem = f"{which} missing in front of this file"
    return DamagedRecord(file=name, offset=offset, size=0, lines=0, problem=problem)
