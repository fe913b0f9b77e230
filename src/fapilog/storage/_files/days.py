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
from .directory import cannot, reading, size_of, without_writers
from .effort import Effort
from .lines import Lines, lines_of, placed
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
    The files of one trail.

    Args:
        directory: The directory of the files; absolute. It may be missing: the trail is then empty.
    """

    def __init__(self, directory: Path) -> None:
        self.directory: Path = directory
        # Named in errors.
        self._place: Path | str = directory

    def _stored(self, effort: Effort) -> tuple[list[str], int | None]:
        """
        Return the names of the files up to the last that holds records, and the offset behind the last record in it.

        The offset is None if no process writes to that file. The records are there to stay: whole ones are never taken
        back. While a writer is at work, its last one may be one that a full disk will cut.
        """
        if not names(self.directory):
            return [], 0
        with without_writers(self.directory, check=lambda: effort.take(0)):
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

    def _around(self, number: int, files: list[str]) -> tuple[Spot, Spot | None]:
        """
        Return where the last record up to *number* ends in *files*, and where the first one after it begins.

        Between the two there are only altered records, and lines that can't be read. Where the numbers of the records
        are not in order, nothing tells where others are: then that is the beginning, and None.
        """
        if files and number <= self._start().sequence_number:
            return Spot(0, 0), Spot(0, 0)
        first = max(0, self._file_of(number, files))
        for lines, end in self._lines_of(files[first : first + 1]):
            found = lines.around(number, end)
            spot, next_number = Spot(first, found.place), found.next_number
            count = lines.count(found.behind, found.place)
            for index in range(first + 1, len(files)):
                if next_number is not None:
                    break
                offset, next_number = self._first_record(files[index]) or (None, None)
                spot, count = Spot(index, offset or 0), count + self._count(files[index], offset)
            last = found.number if found.number is not None or first else self._start().sequence_number
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
        return next(before, head == self._start())

    def _count(self, name: str, end: int | None) -> int:
        """Return how many lines a file has, up to *end* if that is given."""
        return 0 if end == 0 else sum(lines.count(0, end or stop) for lines, stop in self._lines_of([name]))

    def _file_of(self, sequence_number: int, files: list[str]) -> int:
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

    def _number_at_end(self, files: list[str], index: int) -> int:
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
        return self._start().sequence_number + 1 + count

    def _lines_of(self, files: list[str]) -> Iterator[tuple[Lines, int]]:
        """Yield the lines of every file, and where they end, but for files that can't be read."""
        for name in files:
            with contextlib.suppress(ChainError):
                opened = self._opened(name)
                if opened is not None:
                    with opened as fd:
                        lines = Lines(fd, name)
                        yield lines, lines.end_of_records()

    def _start(self) -> ChainHead:
        """Return the head that the first record follows."""
        return start_of(self.directory)

    def _beginning(self, name: str) -> bytes:
        """Return the first bytes of a compressed file; none of another."""
        if os.path.exists(self.directory / name):
            return b""
        from .compressed import beginning  # noqa: PLC0415

        return beginning(f"{self.directory}/{name}{SUFFIX}", FIRST_BYTES)

    def _size(self, name: str) -> int:
        """Return the size that a file has, or had before it was compressed."""
        return size_of(self.directory, name)

    def _opened(self, name: str) -> contextlib.AbstractContextManager[int] | None:
        """Open a file; None if it was removed by retention since it was listed."""
        try:
            return reading(self.directory, name)
        except FileNotFoundError:
            if is_removed(self.directory, name):
                return None
            raise

    @contextlib.contextmanager
    def _failures(self) -> Generator[None, None, None]:
        """Raise `AuditStorageError` in place of damage, and of an error of the operating system."""
        try:
            yield
        except ChainError as damage:
            raise AuditStorageError(f"{self._place}: {damage}") from damage
        except OSError as error:
            raise cannot("read", self._place, error) from error
