"""A record that can't be read, and its place: `DamagedRecord`."""

from __future__ import annotations

import msgspec

from .chain import ChainHead
from .privacy import Discreet

__all__ = ["DamagedRecord"]


class DamagedRecord(Discreet, frozen=True, kw_only=True):
    """
    A hole in a trail: one line, or several in a row, that can't be read as records; or a place with records missing.

    At such a place the record behind the hole does not follow the one in front of it: one of them was moved, perhaps.

    Its `repr`, its text and all of its attributes give the place and the damage, and no content: it may be logged.

    Attributes:
        file: The name of the file in the directory of the trail.
        offset: The byte of the file with which the hole begins, counted from 0.
        size: How many bytes it has, newlines included.
        lines: How many lines; 0 where the record at this place is whole, and does not follow the one in front of it.
        problem: The damage of the first of them.
        head: Number and checksum of the newest record in it that has all the bytes that were stored, and that only this
            version does not understand; None if there is none.
    """

    _shown = ("file", "offset", "problem")

    file: str
    offset: int
    size: int
    lines: int = 1
    problem: str
    head: ChainHead | None = None

    def __str__(self) -> str:
        more = f" ({self.lines} lines in a row)" if self.lines > 1 else ""
        return f"{self.file}, byte {self.offset}: {self.problem}{more}"

    def joined(self, other: DamagedRecord) -> DamagedRecord | None:
        """Return both as one, if both have lines, and *other* is next to this one in the same file, on either side."""
        first, second = (self, other) if self.offset < other.offset else (other, self)
        if (
            not (first.lines and second.lines)
            or first.file != second.file
            or first.offset + first.size != second.offset
        ):
            return None
        return msgspec.structs.replace(
            self,
            offset=first.offset,
            size=first.size + second.size,
            lines=first.lines + second.lines,
            problem=first.problem,
            head=second.head or first.head,
        )
