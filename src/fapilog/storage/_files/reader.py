"""Reading a trail from its files. Needs no writer, and runs beside the writers of all processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ...record import chain
from ...record.chain import AuditChainVerificationResult, ChainError, ChainHead
from ...record.damage import DamagedRecord
from ...record.errors import AuditStorageError
from ...record.events import AuditEvent
from .._anchor import RemovedError, is_removed, start_of
from .._holes import joined, up_to
from ..protocol import EventFilter
from .directory import cannot, reading, size_of, sync, without_writers
from .effort import DECODED, Effort
from .lines import Lines, head_of_record, placed, placed_backwards
from .names import SUFFIX, names
from .needles import needles_of
from .places import Beginning, Line, OpenFile, Places, gone, missing, number_behind, numbered
from .times import ANY, Times, Window
from .verifying import verify

__all__ = ["FIRST_BYTES", "TrailReader"]

_ALL: Final = EventFilter()
FIRST_BYTES: Final = 1 << 16
"""Of a compressed file, to find its first record."""


class TrailReader:
    """
    Reads the files of one trail.

    All methods block, and any number of threads may call them at once. Between two calls it keeps only the times of the
    records in parts of files. It takes the lock on the directory, shared, only for short looks at the end of the trail,
    where a writer may be at work.

    Args:
        directory: The directory of the files; absolute. It may be missing: the trail is then empty.
        durable: Whether `read` returns only records that are on the disk.
        times: The times of the records, as far as they are known; None to begin with the index alone.
    """

    def __init__(self, directory: Path, *, durable: bool, times: Times | None = None) -> None:
        self.directory: Path = directory
        # Named in errors.
        self._place: Path | str = directory
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
        Yield the wanted events, among all events that can't be taken back any more, the newest first.

        A line that can't be read, and by its bytes may be wanted, is yielded as a hole; several in a row are one.

        Raises:
            AuditStorageError: A file can't be read.
        """
        with self._failures():
            yield from joined(self._newest_first(wanted, effort or Effort()))

    def _newest_first(self, wanted: EventFilter, effort: Effort) -> Iterator[AuditEvent | DamagedRecord]:
        sought = _Sought(wanted, wanted.numbered(after=None, before=None), needles_of(wanted), Window(wanted), effort)
        files, last = self._stored()
        files = self._in_time(files, wanted)
        if not sought.window.is_open:
            self._times.load()
        newer: Beginning | None = None
        for name in reversed(self._between(files, wanted)):
            if not sought.window.meets(self._times.of_compressed(name)):
                newer = None
                continue
            try:
                opened = self._opened(name)
            except ChainError as damage:
                newer = None
                yield DamagedRecord(file=name, offset=0, size=self._size(name), problem=str(damage))
                continue
            if opened is None:
                return
            with opened as fd:
                is_closed = last is None or name != files[-1]
                file = OpenFile(fd, name, Lines(fd, name), is_closed=is_closed)
                end = file.lines.end() if last is None or is_closed else last
                if hole := missing(file.lines, end, newer):
                    yield hole
                try:
                    yield from self._items_backwards(file, files, end, sought)
                finally:
                    self._times.save()
                # With times, a file whose records are known to have others is not read at all.
                if end and sought.window.is_open:
                    newer = file.beginning()

    def _items_backwards(
        self, file: OpenFile, files: list[str], end: int, sought: _Sought
    ) -> Iterator[AuditEvent | DamagedRecord]:
        """Yield the wanted records of one of *files*, whose lines end at *end*, the last one first."""
        places: Places | None = None
        span = file.lines.span(sought.wanted.after, sought.wanted.before, end)
        for line in self._lines_backwards(file, span, sought):
            item = line.item()
            if isinstance(item, AuditEvent):
                if not sought.anywhere.matches(item):
                    sought.effort.take(DECODED * len(line.text))
                    continue
                if head_of_record(line.text) is None:
                    # It was altered, and may claim any number.
                    places = places or Places(file.lines, end, self._number_at_end(files, files.index(file.name) + 1))
                    item = line.item(places.number_at(line.offset))
            if isinstance(item, DamagedRecord) or sought.wanted.matches(item):
                yield item

    def _lines_backwards(self, file: OpenFile, span: tuple[int, int], sought: _Sought) -> Iterator[Line]:
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
                found = placed_backwards(*lines.block(start, end)) if window.meets(known) else iter(())
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
            while True:
                # More records than one may be in a hole.
                read = (
                    item
                    for item, place in self._items_after(after)
                    if place is None or place > after or (isinstance(item, DamagedRecord) and item.head is None)
                )
                with contextlib.suppress(RemovedError):
                    return list(up_to(limit, joined(read)))

    def _items_after(self, after: int) -> Iterator[tuple[AuditEvent | DamagedRecord, int | None]]:
        """Yield the records in the lines from about record *after* on, with the numbers of their places if known."""
        number: int | None = None
        is_whole = False  # the record before
        for index, (name, lines, begin, end) in enumerate(self._files_after(after)):
            if lines is None:
                # All of it can't be read, as one line.
                yield Line(name, 0, b"").item(), None
                number, is_whole = None, False
                continue
            if begin:
                number, is_whole = number_behind(lines, begin), True
            elif index == 0:
                number = self._start().sequence_number + 1
            found = (Line(name, offset, line) for offset, line in lines.forwards(begin, end))
            expected = number if is_whole and not begin else None
            for item, place in numbered(found, number):
                is_whole = isinstance(item, AuditEvent)
                if expected and place and is_whole and (hole := gone(name, expected, place - 1)):
                    yield hole, None
                expected = None
                yield item, place
                number = None if place is None else place + 1

    def read_lines(self, after: int, limit: int) -> list[bytes]:
        """
        Return the oldest *limit* records whose sequence number is greater than *after*, as they are stored.

        Raises:
            AuditStorageError: A file can't be read.
        """
        with self._failures():
            while True:
                files = ((lines, begin, end) for _, lines, begin, end in self._files_after(after) if lines is not None)
                found = (line for lines, begin, end in files for _, line in lines.forwards(begin, end))
                with contextlib.suppress(RemovedError):
                    return list(itertools.islice((line for line in found if _claimed(line) > after), limit))

    def _files_after(self, after: int) -> Iterator[tuple[str, Lines | None, int, int]]:
        """
        Yield the files from behind the record *after* on: the name, the lines, and where lasting ones begin and end.

        There are no lines of a file that can't be read. Raises RemovedError if one is gone behind another.
        """
        files, last = self._stored()
        is_begun = False
        for name in files[max(0, self._file_of(after, files)) :]:
            try:
                opened = self._opened(name)
            except ChainError:
                yield name, None, 0, 0
                continue
            if opened is None:
                if is_begun:
                    raise RemovedError
                continue
            is_begun = True
            with opened as fd:
                lines = Lines(fd, name)
                end = lines.end() if last is None or name != files[-1] else last
                if name == files[-1] and self._durable:
                    # A writer that was killed may have written these records without syncing them.
                    sync(fd)
                yield name, lines, lines.around(after, end)[0], end

    def _stored(self) -> tuple[list[str], int | None]:
        """
        Return the names of the files up to the last that holds records, and the offset behind the last record in it.

        The offset is None if no process writes to that file. The records are there to stay: whole ones are never taken
        back. While a writer is at work, its last one may be one that a full disk will cut.
        """
        if not names(self.directory):
            return [], 0
        with without_writers(self.directory):
            files = names(self.directory)
            with contextlib.suppress(ChainError):
                while files:
                    with reading(self.directory, files[-1]) as fd:
                        end = Lines(fd, files[-1]).end()
                    if end:
                        return files, end
                    files.pop()
        # Else the newest is compressed, and damaged: it is one hole, and nobody writes to it.
        return files, None if files else 0

    def _in_time(self, files: list[str], wanted: EventFilter) -> list[str]:  # noqa: ARG002  of an archive's reader
        """Return the *files* that may have *wanted* records, by the time."""
        # All: to look into a file costs little, and is right even if the clock was wrong.
        return files

    def _between(self, files: list[str], wanted: EventFilter) -> list[str]:
        """Return the *files* that may have records with the numbers that are wanted."""
        first, behind = 0, len(files)
        if wanted.after is not None:
            first = max(0, self._file_of(wanted.after, files))
        if wanted.before is not None:
            behind = self._file_of(wanted.before, files) + 1
            # Files may follow that begin with altered records, whose original numbers are not known.
            while behind < len(files) and (self._first_record(files[behind]) or (1, 0))[0]:
                behind += 1
        return files[first:behind]

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
                        yield lines, lines.end()

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


class _Sought(NamedTuple):
    """The conditions of a search, with the bytes and times by which it skips records, and the effort it may make."""

    wanted: EventFilter
    anywhere: EventFilter
    needles: list[bytes]
    window: Window
    effort: Effort


def _claimed(line: bytes) -> int:
    """Return the sequence number that *line* claims to have; 0 if it is no record."""
    try:
        return chain.head_before(line.removesuffix(b"\r")).sequence_number + 1
    except ChainError:
        return 0
