"""Reading a trail from its files. Needs no writer, and runs beside the writers of all processes."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ...record import chain
from ...record.chain import ChainError
from ...record.damage import DamagedRecord
from ...record.events import AuditEvent
from .._anchor import RemovedError
from ..protocol import EventFilter
from .days import Days, Spot
from .descriptors import sync
from .effort import DECODED, Effort
from .lines import Lines, placed_backwards
from .needles import needles_of
from .places import Backwards, Beginning, Item, Line, OpenFile, Page, Place, broken, missing, number_behind, numbered
from .times import ANY, Times, Window

__all__ = ["TrailReader"]

_ALL: Final = EventFilter()


class TrailReader:
    """
    Reads the files of one trail.

    All methods block, and any number of threads may call them at once. Between two calls it keeps only the times of the
    records in parts of files. It takes the lock on the directory, shared, only for short looks at the end of the trail,
    where a writer may be at work.

    Where lines were moved, records are returned in the order in which they stand, each once. A question with bounds on
    the numbers is looked for where these numbers should be.

    Args:
        days: The files, or the directory that they are in: absolute, and perhaps missing.
        durable: Whether `read` returns only records that are on the disk.
        times: The times of the records, as far as they are known; None to begin with the index alone.

    Attributes:
        directory: The directory.
    """

    def __init__(self, days: Days | Path, *, durable: bool, times: Times | None = None) -> None:
        self._days = days if isinstance(days, Days) else Days(days)
        self.directory: Path = self._days.directory
        self._durable = durable
        self._times = Times(self.directory) if times is None else times

    def page(self, wanted: EventFilter, limit: int, place: Place | None = None, effort: Effort | None = None) -> Page:
        """
        Return the newest *limit* events that are wanted, the newest first, and the holes between them.

        Args:
            wanted: Which.
            limit: How many at most.
            place: That of the page before; None for the first page.
            effort: How much it may read; None for all that there is.

        Raises:
            AuditStorageError: A file can't be read.
            TooLongError: It takes more than *effort*.
        """
        with self._days.failures(), contextlib.closing(self._newest_first(wanted, effort or Effort(), place)) as found:
            return Page.of(limit, found)

    def _newest_first(
        self, wanted: EventFilter, effort: Effort, place: Place | None
    ) -> Generator[tuple[Item, Place], None, None]:
        sought = _Sought(wanted, wanted.numbered(after=None, before=None), needles_of(wanted), Window(wanted), effort)
        files, last = self._days.stored(effort)
        files = self._days.in_time(files, wanted)
        if not sought.window.is_open:
            self._times.load()
        newer: Beginning | None = None
        number: int | None = None  # of the first line of the newer file
        for index, first, stop in self._backwards(files, wanted, place):
            name = files[index]
            if not sought.window.meets(self._times.of_compressed(name)):
                newer = number = None
                continue
            try:
                opened = self._days.opened(name)
            except ChainError as damage:
                newer = number = None
                hole = DamagedRecord(file=name, offset=0, size=self._days.size(name), problem=str(damage))
                yield hole, Place(name, 0)
                continue
            if opened is None:
                return
            with opened as fd:
                is_closed = last is None or name != files[-1]
                file = OpenFile(fd, name, Lines(fd, name), is_closed=is_closed)
                size = file.lines.end_of_records() if last is None or is_closed else last
                known = place if place is not None and name == place.file else None
                if known is None and (gap := missing(file.lines, size, newer)):
                    yield gap, Place(name, size)
                span, end = (first, size if stop is None else min(size, stop)), _End(size, files, index, number)
                begins_with = yield from self._of_file(file, span, known, end, sought)
                if size:
                    number = begins_with
                    # With times, a file whose records are known to have others is not read at all.
                    newer = file.beginning() if sought.window.is_open else None
            if newer is not None and index == first == 0:
                yield from self._missing_in_front(newer, wanted.after or 0)

    def _backwards(
        self, files: list[str], wanted: EventFilter, place: Place | None
    ) -> Iterator[tuple[int, int, int | None]]:
        """
        Yield the files from *place* on that may have the wanted numbers, the newest first.

        Each comes with its index, and with the offsets where these records begin and end; None for the end of the file.
        """
        begin, end = Spot(0, 0), None if place is not None else self._days.end_before(wanted.before, files)
        low = self._days.file_of(wanted.after, files) if wanted.after else -1
        for index in reversed(range(len(files) if end is None else end.file + 1)):
            if index <= low:
                begin, low = self._days.begin_behind(wanted.after, files), -1
            if index < begin.file:
                return
            if place is None or files[index] <= place.file:
                first = begin.offset if index == begin.file else 0
                yield index, first, None if end is None or index != end.file else end.offset

    def _of_file(
        self, file: OpenFile, span: tuple[int, int], known: Place | None, end: _End, sought: _Sought
    ) -> Generator[tuple[Item, Place], None, int | None]:
        """
        Yield the wanted items of a file, the newest first, with their places.

        Args:
            file: The file.
            span: Where the lines begin that may be wanted, and where they end.
            known: The place of the page before, if that is in this file.
            end: The end of the file.
            sought: The conditions.

        Returns:
            The number of the first line, if it is known by now.
        """
        begin, stop = span
        behind = None
        if known is not None:
            stop = min(stop, known.offset)
            behind = None if known.number is None else (known.offset, known.number)
        numbers = Backwards(file, behind, lambda: (end.size, self._number_at(end)))
        try:
            for line in self._lines_backwards(file, begin, stop, sought):
                item = line.item()
                if isinstance(item, AuditEvent) and not sought.anywhere.matches(item):
                    sought.effort.take(DECODED * len(line.text))
                    continue
                for found in numbers.read(line, item):
                    if isinstance(found, DamagedRecord):
                        yield found, Place(file.name, line.offset)
                    elif sought.wanted.matches(found):
                        yield found, Place(file.name, line.offset, found.sequence_number)
        finally:
            self._times.save()
        return numbers.first

    def _number_at(self, end: _End) -> int:
        return self._days.number_at_end(end.files, end.file + 1) if end.number is None else end.number

    def _missing_in_front(self, beginning: Beginning, after: int) -> Iterator[tuple[Item, Place]]:
        """Yield the hole in front of the first file, if records behind *after* are missing there."""
        first, number = max(self._days.start().sequence_number, after) + 1, beginning.head.sequence_number + 1
        if number > first and (hole := broken(beginning.name, 0, first, number)):
            yield hole, Place(beginning.name, 0)

    def _lines_backwards(self, file: OpenFile, begin: int, end: int, sought: _Sought) -> Iterator[Line]:
        """Yield the lines from *begin* to *end* that may be wanted, the last one first."""
        lines = file.lines
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

    def read(self, after: int, limit: int) -> list[Item]:
        """Return the items of the first `oldest_page` behind the record *after*."""
        return self.oldest_page(EventFilter().numbered(after=after, before=None), limit).items

    def oldest_page(
        self, wanted: EventFilter, limit: int, place: Place | None = None, effort: Effort | None = None
    ) -> Page:
        """
        Return the oldest *limit* events with the numbers that are wanted, whatever else is, the oldest first.

        A line that can't be read is a hole between them, or behind the last one; several in a row are one.

        Args:
            wanted: The numbers.
            limit: How many at most.
            place: That of the page before; None for the first page.
            effort: Ends the waiting for writers.

        Raises:
            AuditStorageError: A file can't be read.
        """
        with self._days.failures():
            while True:
                with contextlib.suppress(RemovedError):
                    return Page.of(limit, self._oldest_first(wanted, place, effort or Effort()))

    def _oldest_first(self, wanted: EventFilter, place: Place | None, effort: Effort) -> Iterator[tuple[Item, Place]]:
        """Yield the items with the numbers that are wanted, and the places behind them."""
        after, before = wanted.after or 0, wanted.before
        number, is_behind = (None, False) if place is None else (place.number, True)
        for index, (name, lines, begin, end) in enumerate(self._files(wanted, place, effort)):
            if lines is None:
                # All of it can't be read, as one line.
                yield Line(name, 0, b"").item(), Place(name, 0)
                number, is_behind = None, False
                continue
            if place is None and begin:
                number, is_behind = number_behind(lines, begin), True
            elif index == 0 and not begin:
                # Records that were removed are not missing, and those that were removed just now may be there still.
                first, number = lines.start(), max(self._days.start().sequence_number + 1, number or 0)
                number, is_behind = number if first is None else min(number, first.sequence_number + 1), True
            found = (Line(name, offset, line) for offset, line in lines.forwards(begin, end))
            for line, item, place_number in numbered(found, number, is_behind=is_behind):
                is_event = isinstance(item, AuditEvent)
                is_wanted = place_number is None or (after < place_number and (before is None or place_number < before))
                number, is_behind = None if place_number is None else place_number + 1, is_event
                # More records than one may be in a hole.
                if is_wanted or (isinstance(item, DamagedRecord) and item.head is None):
                    yield item, Place(name, line.end, number)

    def read_lines(self, after: int, limit: int, effort: Effort | None = None) -> list[bytes]:
        """
        Return the oldest *limit* records whose sequence number is greater than *after*, as they are stored.

        Raises:
            AuditStorageError: A file can't be read.
        """
        wanted = _ALL.numbered(after=after, before=None)
        with self._days.failures():
            while True:
                files = self._files(wanted, None, effort or Effort())
                found = (
                    line
                    for _, lines, begin, end in files
                    if lines is not None
                    for _, line in lines.forwards(begin, end)
                    if _claimed(line) > after
                )
                with contextlib.suppress(RemovedError):
                    return list(itertools.islice(found, limit))

    def _files(
        self, wanted: EventFilter, place: Place | None, effort: Effort
    ) -> Iterator[tuple[str, Lines | None, int, int]]:
        """
        Yield the files with the wanted numbers from *place* on: the name, the lines, and where these begin and end.

        There are no lines of a file that can't be read. Raises RemovedError if one is gone behind another.
        """
        files, last = self._days.stored(effort)
        begin, stop = Spot(0, 0) if place is not None else self._days.begin_behind(wanted.after, files), None
        high = len(files) if wanted.before is None else self._days.file_of(wanted.before - 1, files)
        is_begun = False
        for index in range(begin.file, len(files)):
            if index >= high:
                stop, high = self._days.end_before(wanted.before, files), len(files)
            if stop is not None and index > stop.file:
                break
            name = files[index]
            if place is not None and name < place.file:
                continue
            try:
                opened = self._days.opened(name)
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
                end = lines.end_of_records() if last is None or name != files[-1] else last
                if name == files[-1] and self._durable:
                    # A writer that was killed may have written these records without syncing them.
                    sync(fd)
                start = begin.offset if index == begin.file else 0
                if place is not None:
                    start = place.offset if name == place.file else 0
                yield name, lines, start, end if stop is None or index != stop.file else min(end, stop.offset)


class _End(NamedTuple):
    """The end of the lines of one of the files, by its index, and the number of the next line if that is known."""

    size: int
    files: list[str]
    file: int
    number: int | None


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
