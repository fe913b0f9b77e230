"""
The numbers of lines by their places, for lines that were altered and so don't have their own number.

A caller that pages by numbers would lose a record with another number than that of its place, or get it twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ...record.damage import DamagedRecord
from ...record.events import AuditEvent
from .._holes import item_of
from .lines import Lines, cut_backwards, head_of_record

__all__ = ["Line", "Places", "number_behind", "numbered"]


class Line(NamedTuple):
    """A line, and its place."""

    file: str
    offset: int
    text: bytes

    def item(self, number: int | None = None) -> AuditEvent | DamagedRecord:
        """Return the event in the line, with that *number* unless it is None; or the hole that the line is."""
        return item_of(self.text, file=self.file, offset=self.offset, size=len(self.text) + 1, number=number)


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
        for _, line in cut_backwards(*lines.block(start, offset)):
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
