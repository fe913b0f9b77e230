"""Reading a trail from its files. Needs no writer, and runs beside the writers of all processes."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ..record import chain
from ..record.chain import AuditChainVerificationResult, ChainError
from ..record.damage import DamagedRecord
from ..record.errors import AuditStorageError
from ..record.events import AuditEvent
from ._anchor import is_removed, start_of
from ._compressed import SUFFIX, beginning
from ._directory import cannot, names, reading, size_of, sync, without_writers
from ._holes import joined, up_to
from ._lines import Lines, cut, cut_backwards, head_of_record
from ._needles import needles_of
from ._places import Line, Places, number_behind, numbered
from ._times import ANY, Times, Window
from ._verifying import verify
from .protocol import EventFilter

__all__ = ["Effort", "TooLongError", "TrailReader"]

_ALL: Final = EventFilter()
# Of a compressed file, to find its first record.
_FIRST_BYTES: Final = 1 << 16


# To decode a record takes so many times as long as to search its bytes.
_DECODED: Final = 16


class TooLongError(Exception):
    """Raised where a search has taken all of its `Effort`."""


class Effort:
    """
    How much a search may do.

    Args:
        size: So many bytes it may search, or decode a share of them in vain.
    """

    def __init__(self, size: float = math.inf) -> None:
        self._left = size

    def take(self, size: int) -> None:
        """Note that *size* bytes are searched, or that it takes as long; raise `TooLongError` if that is too much."""
        self._left -= size
        if self._left < 0:
            raise TooLongError

    def end(self) -> None:
        """Have the search end with the next bytes; any thread may call it."""
        self._left = -math.inf


class TrailReader:
    """
    Reads the files of one trail.

    All methods block, and any number of threads may call them at once. All that it keeps between two calls is which
    times stand in which part of a file. It takes the lock on the directory, shared, only for short looks at the end of
    the trail, where a writer may be at work.

    Args:
        directory: Where the files are; absolute. It may be missing: the trail is then empty.
        durable: Whether `read` returns only records that are on the disk.
        times: Of the records, as far as they are known; None to begin with the index alone.
    """

    def __init__(self, directory: Path, *, durable: bool, times: Times | None = None) -> None:
        self.directory: Path = directory
        self._durable = durable
        self._times = Times(directory) if times is None else times

    def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        """Check every record, and call *progress* with how many so far; damage is returned, not raised."""
        return verify(self.directory, progress)

    def find(self, wanted: EventFilter, limit: int, effort: Effort | None = None) -> list[AuditEvent | DamagedRecord]:
        """
        Return the newest *limit* events that are wanted, the newest first, and the holes between them.

        Args:
            wanted: Which.
            limit: How many at most.
            effort: How much it may read; None for all that there is.

        Raises:
            AuditStorageError: A file can't be read.
            TooLongError: It takes more than *effort*.
        """
        with contextlib.closing(self.newest_first(wanted, effort)) as found:
            return list(up_to(limit, found))

    def newest_first(
        self, wanted: EventFilter = _ALL, effort: Effort | None = None
    ) -> Generator[AuditEvent | DamagedRecord, None, None]:
        """
        Yield the events that are wanted, of those that are there to stay, the newest first, as far as is asked for.

        A line that can't be read, and by its bytes may be wanted, is yielded as a hole; several in a row are one.

        Raises:
            AuditStorageError: A file can't be read.
        """
        with self._failures():
            yield from joined(self._newest_first(wanted, effort or Effort()))

    def _newest_first(self, wanted: EventFilter, effort: Effort) -> Iterator[AuditEvent | DamagedRecord]:
        sought = _Sought(wanted, wanted.numbered(after=None, before=None), needles_of(wanted), Window(wanted), effort)
        files, last = self._stored()
        first, behind = 0, len(files)
        if wanted.after is not None:
            first = max(0, self._file_of(wanted.after, files))
        if wanted.before is not None:
            # Up to the next record whose checksum is right: it is not known of others what their numbers were.
            behind = self._file_of(wanted.before, files) + 1
            behind = self._file_of(self._first_number(files[behind:]), files) + 1
        if not sought.window.is_open:
            self._times.load()
        for name in reversed(files[first:behind]):
            if not sought.window.meets(self._times.of_compressed(name)):
                continue
            try:
                opened = self._opened(name)
            except ChainError as damage:
                yield DamagedRecord(file=name, offset=0, size=size_of(self.directory, name), problem=str(damage))
                continue
            if opened is None:
                return
            with opened as fd:
                file = _File(fd, name, Lines(fd, name), is_closed=name != files[-1])
                try:
                    yield from self._items_backwards(file, files, file.lines.end() if file.is_closed else last, sought)
                finally:
                    self._times.save(like=fd)

    def _items_backwards(
        self, file: _File, files: list[str], end: int, sought: _Sought
    ) -> Iterator[AuditEvent | DamagedRecord]:
        """Yield what is wanted of one of *files*, whose lines end at *end*, the last one first."""
        places: Places | None = None
        for line in self._lines_backwards(file, _span(file.lines, end, sought.wanted), sought):
            item = line.item()
            if isinstance(item, AuditEvent):
                if not sought.anywhere.matches(item):
                    sought.effort.take(_DECODED * len(line.text))
                    continue
                if head_of_record(line.text) is None:
                    # It was altered, and may claim any number.
                    places = places or Places(self.directory, files, file.name, file.lines, end)
                    item = line.item(places.number_at(line.offset))
            if isinstance(item, DamagedRecord) or sought.wanted.matches(item):
                yield item

    def _lines_backwards(self, file: _File, span: tuple[int, int], sought: _Sought) -> Iterator[Line]:
        """Yield the lines in *span* that may be wanted, the last one first."""
        lines, (begin, end) = file.lines, span
        _, _, needles, window, effort = sought
        learns = not (window.is_open or needles)
        if learns and file.is_compressed:
            effort.take(lines.end())
            if not window.meets(self._times.learn_compressed(file.name, lines)):
                return
        for start in reversed(lines.blocks(begin, end)):
            known = ANY
            if not window.is_open:
                known = self._times.known(file.fd, file.name, start, lines.block_end(start, end))
            if not window.meets(known):
                continue
            effort.take(lines.block_end(start, end) - start)
            if needles:
                # Found in less time than all the times of the block are.
                found = reversed(lines.having(needles, start, end))
            else:
                if learns and file.is_complete(start, end):
                    known = self._times.learn(file.name, start, lines, end)
                found = cut_backwards(*lines.block(start, end)) if window.meets(known) else iter(())
            for place, line in found:
                if place >= begin and window.may_have(line):
                    yield Line(file.name, place, line)

    def read(self, after: int, limit: int) -> list[AuditEvent | DamagedRecord]:
        """
        Return the oldest *limit* events whose sequence number is greater than *after*, the oldest first.

        A line that can't be read is a hole between them, or behind the last one; several in a row are one.

        Raises:
            AuditStorageError: A file can't be read.
        """
        with self._failures():
            # More records than one may be in a hole.
            read = (
                item
                for item, place in self._items_after(after)
                if place is None or place > after or (isinstance(item, DamagedRecord) and item.head is None)
            )
            return list(up_to(limit, joined(read)))

    def _items_after(self, after: int) -> Iterator[tuple[AuditEvent | DamagedRecord, int | None]]:
        """Yield what is in the lines from about the record *after* on, each with the number of its place if known."""
        number: int | None = start_of(self.directory).sequence_number + 1
        for name, lines, begin, end in self._files_after(after):
            if lines is None:
                # All of it can't be read, as one line.
                yield Line(name, 0, b"").item(), None
                number = None
                continue
            number = number_behind(lines, begin) if begin else number
            found = (Line(name, offset, line) for offset, line in lines.forwards(begin, end))
            for item, place in numbered(found, number):
                yield item, place
                number = None if place is None else place + 1

    def read_lines(self, after: int, limit: int) -> list[bytes]:
        """
        Return the oldest *limit* records whose sequence number is greater than *after*, as they are stored.

        Raises:
            AuditStorageError: A file can't be read.
        """
        with self._failures():
            files = ((lines, begin, end) for _, lines, begin, end in self._files_after(after) if lines is not None)
            found = (line for lines, begin, end in files for _, line in lines.forwards(begin, end))
            return list(itertools.islice((line for line in found if _claimed(line) > after), limit))

    def _files_after(self, after: int) -> Iterator[tuple[str, Lines | None, int, int]]:
        """
        Yield the files with the lines from behind the record *after* on, of records that stay.

        Returns:
            The name of the file, its lines, and where those of interest begin and end; no lines if it can't be read.
        """
        files, last = self._stored()
        for name in files[max(0, self._file_of(after, files)) :]:
            try:
                opened = self._opened(name)
            except ChainError:
                yield name, None, 0, 0
                continue
            if opened is None:
                continue
            with opened as fd:
                lines = Lines(fd, name)
                is_last = name == files[-1]
                end = last if is_last else lines.end()
                if is_last and self._durable:
                    # A writer that was killed may have written these records without syncing them.
                    sync(fd)
                yield name, lines, lines.around(after, end)[0], end

    def _stored(self) -> tuple[list[str], int]:
        """
        Return the names of the files up to the last that holds records, and the offset behind the last record in it.

        These records are there to stay: whole records are never taken back. While a writer is at work, its last record
        may be one that a full disk will cut.
        """
        if not names(self.directory):
            return [], 0
        with without_writers(self.directory):
            files = names(self.directory)
            while files:
                with reading(self.directory, files[-1]) as fd:
                    end = Lines(fd, files[-1]).end()
                if end:
                    return files, end
                files.pop()
        return [], 0

    def _file_of(self, sequence_number: int, files: list[str]) -> int:
        """Return the index of the file in which that record is, or would be; -1 if it is before the first."""
        return bisect_right(range(len(files)), sequence_number, key=lambda index: self._first_number(files[index:])) - 1

    def _first_number(self, files: list[str]) -> int:
        """Return the sequence number of the first whole record in *files*; a large one if there is none."""
        for name in files:
            if number := self._first_when_compressed(name):
                return number
            try:
                opened = self._opened(name)
            except ChainError:
                continue
            if opened is None:
                continue
            with opened as fd:
                lines = Lines(fd, name)
                if first := lines.first_record(0, lines.end()):
                    return first[1]
        return sys.maxsize

    def _first_when_compressed(self, name: str) -> int | None:
        """Return the number of the first record of a compressed file, without decompressing all of it."""
        with contextlib.suppress(OSError, ChainError):
            if not os.path.exists(self.directory / name):
                data = beginning(f"{self.directory}/{name}{SUFFIX}", _FIRST_BYTES)
                heads = (head_of_record(line) for _, line in cut(0, data[: data.rfind(b"\n") + 1]))
                return next((head.sequence_number for head in heads if head is not None), None)
        return None

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
            raise AuditStorageError(f"{self.directory}: {damage}") from damage
        except OSError as error:
            raise cannot("read", self.directory, error) from error


class _Sought(NamedTuple):
    """What a search looks for, there and at any place, and by which bytes and times; and how much it may do."""

    wanted: EventFilter
    anywhere: EventFilter
    needles: list[bytes]
    window: Window
    effort: Effort


class _File(NamedTuple):
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


def _claimed(line: bytes) -> int:
    """Return the sequence number that *line* claims to have; 0 if it is no record."""
    try:
        return chain.head_before(line.removesuffix(b"\r")).sequence_number + 1
    except ChainError:
        return 0


def _span(lines: Lines, end: int, wanted: EventFilter) -> tuple[int, int]:
    """Return where the records between the numbers that are wanted begin, and where they end."""
    begin = 0
    if wanted.before is not None:
        end = lines.around(wanted.before - 1, end)[1]
    if wanted.after is not None:
        begin = lines.around(wanted.after, end)[0]
    return begin, end
