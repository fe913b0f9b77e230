"""The files of a trail, as its reader has them: where they end, and where the record with a number is."""

from __future__ import annotations

import contextlib
import os
import sys
from bisect import bisect_right
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ...record import chain
from ...record.chain import ChainError, ChainHead
from ...record.errors import AuditStorageError
from .._anchor import is_removed, start_of
from .._holes import head_of_record
from ..protocol import EventFilter
from .access import cannot
from .directory import reading, size_of
from .effort import Effort
from .lines import Lines, lines_of, placed
from .locking import locked
from .names import SUFFIX, names
from .places import number_behind

__all__ = ["FIRST_BYTES", "Days", "Spot"]

FIRST_BYTES: Final = 1 << 16
"""Of a compressed file, to find its first record."""


class Spot(NamedTuple):
    """A place in some files: the index of a file, and an offset in it."""

    file: int
    offset: int


class Days:
    """
    The files of one trail, in a directory; those of an archive are a subclass.

    All methods block, raise `ChainError` for a file that is damaged, and `OSError` for one that can't be read; a reader
    calls them inside of `failures`.

    Args:
        directory: The directory of the files; absolute. It may be missing: the trail is then empty.
        place: Names it in errors; None for the directory.

    Attributes:
        directory: As given.
        place: As given.
    """

    def __init__(self, directory: Path, place: str | None = None) -> None:
        self.directory: Path = directory
        self.place: Path | str = directory if place is None else place

    def stored(self, effort: Effort) -> tuple[list[str], int | None]:
        """
        Return the names of the files up to the last that holds records, and the offset behind the last record in it.

        The offset is None if no process writes to that file. The records are there to stay: whole ones are never taken
        back. While a writer is at work, its last one may be one that a full disk will cut.
        """
        if not names(self.directory):
            return [], 0
        with locked(self.directory, check=lambda: effort.take(0)):
            files = names(self.directory)
            with contextlib.suppress(ChainError):
                while files:
                    with lines_of(self.directory, files[-1]) as lines:
                        end = lines.end_of_records()
                    if end:
                        return files, end
                    files.pop()
        # Else the newest is compressed, and damaged: it is one hole, and nobody writes to it.
        return files, None if files else 0

    def in_time(self, files: list[str], wanted: EventFilter) -> list[str]:  # noqa: ARG002  of an archive
        """Return the *files* that may have *wanted* records, by the time."""
        # All: to look into a file costs little, and is right even if the clock was wrong.
        return files

    def begin_behind(self, after: int | None, files: list[str]) -> Spot:
        """Return where the records behind that number begin in *files*."""
        return self._around(after, files)[0] if after else Spot(0, 0)

    def end_before(self, before: int | None, files: list[str]) -> Spot | None:
        """Return where the records before that number end in *files*; None if that is at the end."""
        return None if before is None else self._around(before - 1, files)[1]

    def _around(self, number: int, files: list[str]) -> tuple[Spot, Spot | None]:
        """
        Return where the last record up to *number* ends in *files*, and where the first one after it begins.

        Between the two there are only altered records, and lines that can't be read. Where the numbers of the records
        are not in order, nothing tells where others are: then that is the beginning, and None.
        """
        if files and number <= self.start().sequence_number:
            return Spot(0, 0), Spot(0, 0)
        first = max(0, self.file_of(number, files))
        for lines, end in self._lines_of(files[first : first + 1]):
            found = lines.around(number, end)
            spot, next_number = Spot(first, found.place), found.next_number
            count = lines.count(found.behind, found.place)
            for index in range(first + 1, len(files)):
                if next_number is not None:
                    break
                offset, next_number = self._first_record(files[index]) or (None, None)
                spot, count = Spot(index, offset or 0), count + self._count(files[index], offset)
            last = found.number if found.number is not None or first else self.start().sequence_number
            if next_number is None and last == number and self._is_linked(files[: first + 1], lines, found.offset):
                return Spot(first, found.behind), None
            if next_number is not None and last is not None and next_number - last - 1 == count:
                return Spot(first, found.behind), spot
        return Spot(0, 0), None

    def _is_linked(self, files: list[str], lines: Lines, offset: int) -> bool:
        """Return whether the record at *offset* of the last of *files* follows the line in front of it."""
        _, line = lines.first_from(offset, lines.end_of_records()) or (0, b"")
        head = chain.head_before(line.removesuffix(b"\r"))
        if offset:
            return lines.end_with(head, offset)
        before = (older.end_with(head, end) for older, end in self._lines_of(files[-2::-1]) if end)
        return next(before, head == self.start())

    def _count(self, name: str, end: int | None) -> int:
        """Return how many lines a file has, up to *end* if that is given."""
        return 0 if end == 0 else sum(lines.count(0, end or stop) for lines, stop in self._lines_of([name]))

    def file_of(self, sequence_number: int, files: list[str]) -> int:
        """Return the index of the file in which that record is, or would be; -1 if it is before the first."""
        return bisect_right(range(len(files)), sequence_number, key=lambda index: self._first_number(files[index:])) - 1

    def _first_number(self, files: list[str]) -> int:
        """Return the sequence number of the first whole record in *files*; a large one if there is none."""
        return next((first[1] for name in files if (first := self._first_record(name)) is not None), sys.maxsize)

    def _first_record(self, name: str) -> tuple[int, int] | None:
        """Return where the first whole record of a file is, and its sequence number; None if there is none."""
        found = (lines.first_record(0, end) for lines, end in self._lines_of([name]))
        return self._first_when_compressed(name) or next(found, None)

    def _first_when_compressed(self, name: str) -> tuple[int, int] | None:
        """Return the same of a compressed file, if it is at its beginning, without decompressing all of it."""
        with contextlib.suppress(OSError, ChainError):
            data = self._beginning(name)
            heads = ((place, head_of_record(line)) for place, line in placed(0, data[: data.rfind(b"\n") + 1]))
            return next(((place, head.sequence_number) for place, head in heads if head is not None), None)
        return None

    def number_at_end(self, files: list[str], index: int) -> int:
        """Return the number of the line that would follow the last one of the files before *index*."""
        count = 0
        for lines, end in self._lines_of(files[index:]):
            if (first := lines.first_record(0, end)) is not None:
                return first[1] - count - lines.count(0, first[0])
            count += lines.count(0, end)
        count = 0
        for lines, end in self._lines_of(files[index - 1 :: -1]):
            if (number := number_behind(lines, end)) is not None:
                return number + count
            count += lines.count(0, end)
        return self.start().sequence_number + 1 + count

    def _lines_of(self, files: list[str]) -> Iterator[tuple[Lines, int]]:
        """Yield the lines of every file, and where they end, but for files that can't be read."""
        for name in files:
            with contextlib.suppress(ChainError):
                opened = self.opened(name)
                if opened is not None:
                    with opened as fd:
                        lines = Lines(fd, name)
                        yield lines, lines.end_of_records()

    def start(self) -> ChainHead:
        """Return the head that the first record follows."""
        return start_of(self.directory)

    def _beginning(self, name: str) -> bytes:
        """Return the first bytes of a compressed file; none of another."""
        if os.path.exists(self.directory / name):
            return b""
        from .compressed import beginning  # noqa: PLC0415

        return beginning(f"{self.directory}/{name}{SUFFIX}", FIRST_BYTES)

    def size(self, name: str) -> int:
        """Return the size that a file has, or had before it was compressed."""
        return size_of(self.directory, name)

    def opened(self, name: str) -> contextlib.AbstractContextManager[int] | None:
        """Open a file; None if it was removed by retention since it was listed."""
        try:
            return reading(self.directory, name)
        except FileNotFoundError:
            if is_removed(self.directory, name):
                return None
            raise

    @contextlib.contextmanager
    def failures(self) -> Generator[None, None, None]:
        """Raise `AuditStorageError` in place of damage, and of an error of the operating system."""
        try:
            yield
        except ChainError as damage:
            raise AuditStorageError(f"{self.place}: {damage}") from damage
        except OSError as error:
            raise cannot("read", self.place, error) from error
