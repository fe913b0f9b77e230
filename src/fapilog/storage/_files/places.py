"""
The lines of files that are read, by their places: what is damaged, altered or missing there, and with which numbers.

A caller that pages by numbers would lose a record with another number than that of its place, or get it twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ...record.chain import ChainHead
from ...record.damage import DamagedRecord
from ...record.events import AuditEvent
from .._holes import item_of
from .lines import Lines, head_of_record, placed_backwards

__all__ = ["Beginning", "Line", "OpenFile", "Places", "gone", "missing", "number_behind", "numbered"]


class Line(NamedTuple):
    """A line, and its place."""

    file: str
    offset: int
    text: bytes

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
        return not self.is_compressed and (is_whole or (self.is_closed and end == self.lines.end()))

    def beginning(self) -> Beginning | None:
        """Return where it begins; None if its first line is no whole record."""
        head = self.lines.start()
        return None if head is None else Beginning(self.name, head)


class Beginning(NamedTuple):
    """The name of a file, and the head that its first record follows."""

    name: str
    head: ChainHead


class Places:
    """
    The numbers of the lines of one file by their places, counted back from the next record whose checksum is right.

    They are asked for from the end of the file to its beginning, so that no line is counted twice.

    Args:
        lines: The lines of the file.
        end: The offset behind the last line.
        number: That the next line would have.
    """

    def __init__(self, lines: Lines, end: int, number: int) -> None:
        self._lines = lines
        # Where a line begins, or would, and its number.
        self._known: tuple[int, int] = end, number

    def number_at(self, offset: int) -> int:
        """Return the number of the line that begins at *offset*."""
        place, number = self._lines.first_record(offset, self._known[0]) or self._known
        self._known = offset, number - self._lines.count(offset, place)
        return self._known[1]


def number_behind(lines: Lines, offset: int) -> int | None:
    """Return the number of the line at *offset*, counted from the last record before it whose checksum is right."""
    count = 1
    for start in reversed(lines.blocks(0, offset)):
        for _, line in placed_backwards(*lines.block(start, offset)):
            if (head := head_of_record(line)) is not None:
                return head.sequence_number + count
            count += 1
    return None


def numbered(lines: Iterable[Line], number: int | None) -> Iterator[tuple[AuditEvent | DamagedRecord, int | None]]:
    """
    Yield the events and holes in consecutive *lines*, the oldest first, with the numbers of their places if known.

    Args:
        lines: The lines.
        number: The number of the first line; None to believe that line.
    """
    for line in lines:
        item = line.item()
        claimed = item.sequence_number if isinstance(item, AuditEvent) else item.head and item.head.sequence_number
        # Hashed only if need be: a record whose checksum is right is believed, and other lines are counted from it.
        if number is None or (claimed != number and head_of_record(line.text) is not None):
            number = claimed
        elif claimed not in (None, number):
            item = line.item(number)
        yield item, number
        number = None if number is None else number + 1


def missing(lines: Lines, end: int, behind: Beginning | None) -> DamagedRecord | None:
    """Return the hole between *lines*, which end at *end*, and the file *behind* them; None if nothing is missing."""
    if behind is None or not end or lines.end_with(behind.head, end):
        return None
    for start in reversed(lines.blocks(0, end)):
        for _, line in placed_backwards(*lines.block(start, end)):
            # Else what can't be read is a hole in its own place.
            last = head_of_record(line)
            return None if last is None else gone(behind.name, last.sequence_number + 1, behind.head.sequence_number)
    return None


def gone(name: str, first: int, last: int) -> DamagedRecord | None:
    """Return the hole in front of the file *name* if records from *first* to *last* are missing there."""
    if last < first:
        return None
    which = f"record {first} is" if first == last else f"records {first} to {last} are"
    return DamagedRecord(file=name, offset=0, size=0, problem=f"{which} missing in front of this file")
