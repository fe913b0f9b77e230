"""Reading a trail from its files. Needs no writer, and runs beside the writers of all processes."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import sys
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Final, cast

from ..record import chain
from ..record.chain import AuditChainVerificationResult, ChainError, ChainHead
from ..record.damage import DamagedRecord
from ..record.errors import AuditStorageError
from ..record.events import AuditEvent
from ..record.kinds import AuditEventType, AuditLogLevel, AuditOutcome
from ..record.parties import Target
from ._anchor import is_removed, start_of
from ._compressed import SUFFIX, beginning
from ._directory import cannot, reading, size_of, sync, without_writers
from ._holes import item_of, joined, up_to
from ._lines import Lines, cut, cut_backwards, head_of_record
from ._names import names
from ._recovering import last_seal
from ._times import Times, Window
from ._verifying import verify
from .protocol import EQUAL, EventFilter

__all__ = ["FIRST_BYTES", "TrailReader", "start_of_end"]

_ALL: Final = EventFilter()
FIRST_BYTES: Final = 1 << 16
"""Of a compressed file, to find its first record."""


class TrailReader:
    """
    Reads the files of one trail.

    All methods block, and any number of threads may call them at once. All that it keeps between two calls is which
    times stand in which part of a file. It takes the lock on the directory, shared, only for short looks at the end of
    the trail, where a writer may be at work.

    Args:
        directory: Where the files are; absolute. It may be missing: the trail is then empty.
        durable: Whether `read` returns only records that are on the disk.
    """

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self._directory = directory
        self._durable = durable
        self._times = Times()

    def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        """Check every record, and call *progress* with how many so far; damage is returned, not raised."""
        return verify(self._directory, progress)

    def find(self, wanted: EventFilter, limit: int) -> list[AuditEvent | DamagedRecord]:
        """
        Return the newest *limit* events that are wanted, the newest first, and the holes between them.

        Raises:
            AuditStorageError: A file can't be read.
        """
        if limit < 1:
            return []
        with contextlib.closing(self.newest_first(wanted)) as found:
            return list(up_to(limit, found))

    def newest_first(self, wanted: EventFilter = _ALL) -> Generator[AuditEvent | DamagedRecord, None, None]:
        """
        Yield the events that are wanted, of those that are there to stay, the newest first, as far as is asked for.

        A line that can't be read, and by its bytes may be wanted, is yielded as a hole; several in a row are one.

        Raises:
            AuditStorageError: A file can't be read.
        """
        with self._failures():
            yield from joined(self._newest_first(wanted))

    def _newest_first(self, wanted: EventFilter) -> Iterator[AuditEvent | DamagedRecord]:
        needles, window = _needles(wanted), Window(wanted)
        files, last = self._stored()
        files = self._in_time(files, wanted)
        first, behind = 0, len(files)
        if wanted.after is not None:
            first = max(0, self._file_of(wanted.after, files))
        if wanted.before is not None:
            behind = self._file_of(wanted.before, files) + 1
        for name in reversed(files[first:behind]):
            try:
                opened = self._opened(name)
            except ChainError as damage:
                yield DamagedRecord(file=name, offset=0, size=self._size(name), problem=str(damage))
                continue
            if opened is None:
                return
            with opened as fd:
                lines = Lines(fd, name)
                end = lines.end() if last is None or name != files[-1] else last
                begin, end = _span(lines, end, wanted)
                for offset, line in self._lines_backwards(fd, lines, (begin, end), needles, window):
                    item = item_of(line, file=name, offset=offset, size=len(line) + 1)
                    if isinstance(item, DamagedRecord) or wanted.matches(item):
                        yield item

    def _lines_backwards(
        self, fd: int, lines: Lines, span: tuple[int, int], needles: list[bytes], window: Window
    ) -> Iterator[tuple[int, bytes]]:
        """Yield the lines in *span* that may be wanted, the last one first, with their offsets."""
        begin, end = span
        for start in reversed(lines.blocks(begin, end)):
            if not (window.is_open or window.meets(self._times.known(fd, start))):
                continue
            offset, data = lines.block(start, end)
            # Where a needle is asked for, it is found in less time than all the times are.
            if (
                not (window.is_open or needles)
                and lines.is_whole_block(start, end)
                and not window.meets(self._times.learn(fd, start, offset, data))
            ):
                continue
            # A block without the needles is not cut into lines.
            if all(needle in data for needle in needles):
                for place, line in cut_backwards(offset, data):
                    if place >= begin and all(needle in line for needle in needles) and window.may_have(line):
                        yield place, line

    def read(self, after: int, limit: int) -> list[AuditEvent | DamagedRecord]:
        """
        Return the oldest *limit* events whose sequence number is greater than *after*, the oldest first.

        A line that can't be read is a hole between them, or behind the last one; several in a row are one.

        Raises:
            AuditStorageError: A file can't be read.
        """
        read = (
            item_of(line, file=name, offset=offset, size=len(line) + 1)
            for name, offset, line in self._lines_after(after)
        )
        with self._failures():
            return list(up_to(limit, joined(item for item in read if _number(item) > after)))

    def read_lines(self, after: int, limit: int) -> list[bytes]:
        """
        Return the oldest *limit* records whose sequence number is greater than *after*, as they are stored.

        Raises:
            AuditStorageError: A file can't be read.
        """
        with self._failures():
            records = (line for _, _, line in self._lines_after(after) if _claimed(line) > after)
            return list(itertools.islice(records, limit))

    def _lines_after(self, after: int) -> Iterator[tuple[str, int, bytes]]:
        """Yield the lines from behind the record *after* on, each with its file and offset, of records that stay."""
        files, last = self._stored()
        for name in files[max(0, self._file_of(after, files)) :]:
            try:
                opened = self._opened(name)
            except ChainError:
                # All of it can't be read, as one line.
                yield name, 0, b""
                continue
            if opened is None:
                continue
            with opened as fd:
                lines = Lines(fd, name)
                end = lines.end() if last is None or name != files[-1] else last
                if name == files[-1] and self._durable:
                    # A writer that was killed may have written these records without syncing them.
                    sync(fd)
                for offset, line in lines.forwards(lines.around(after, end)[0], end):
                    yield name, offset, line

    def _stored(self) -> tuple[list[str], int | None]:
        """
        Return the names of the files up to the last that holds records, and the offset behind the last record in it.

        The offset is None if nobody writes to that file.

        These records are there to stay: whole records are never taken back. While a writer is at work, its last record
        may be one that a full disk will cut.
        """
        if not names(self._directory):
            return [], 0
        with without_writers(self._directory):
            files = names(self._directory)
            while files:
                with reading(self._directory, files[-1]) as fd:
                    end = Lines(fd, files[-1]).end()
                if end:
                    return files, end
                files.pop()
        return [], 0

    def _in_time(self, files: list[str], wanted: EventFilter) -> list[str]:  # noqa: ARG002  of an archive's reader
        """Return those of *files* that may have what is *wanted*, by the time."""
        # All: to look into a file costs little, and says so whatever the clock has done.
        return files

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
            data = self._beginning(name)
            heads = (head_of_record(line) for _, line in cut(0, data[: data.rfind(b"\n") + 1]))
            return next((head.sequence_number for head in heads if head is not None), None)
        return None

    def _beginning(self, name: str) -> bytes:
        """Return the first bytes of a compressed file; none of another."""
        if os.path.exists(self._directory / name):
            return b""
        return beginning(f"{self._directory}/{name}{SUFFIX}", FIRST_BYTES)

    def _size(self, name: str) -> int:
        """Return the size that a file has, or had before it was compressed."""
        return size_of(self._directory, name)

    def _opened(self, name: str) -> contextlib.AbstractContextManager[int] | None:
        """Open a file; None if it was removed by retention since it was listed."""
        try:
            return reading(self._directory, name)
        except FileNotFoundError:
            if is_removed(self._directory, name):
                return None
            raise

    @contextlib.contextmanager
    def _failures(self) -> Generator[None, None, None]:
        """Raise `AuditStorageError` in place of damage, and of an error of the operating system."""
        try:
            yield
        except ChainError as damage:
            raise AuditStorageError(f"{self._directory}: {damage}") from damage
        except OSError as error:
            raise cannot("read", self._directory, error) from error


def _number(item: AuditEvent | DamagedRecord) -> float:
    """Return the sequence number of an event; of a hole that of its newest record, or one after all others."""
    if isinstance(item, AuditEvent):
        return item.sequence_number or 0
    return math.inf if item.head is None else item.head.sequence_number


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


# The encoder of records writes these characters as they are, and did in each version.
_AS_THEY_ARE: Final = re.compile(r"[ !#-\[\]-~]*")


def _needles(wanted: EventFilter) -> list[bytes]:
    """
    Return bytes that each record has which is wanted, so that no other needs to be decoded.

    Records are written by one encoder, which writes equal values as equal bytes. A value with other characters than
    those that it has always written as they are gives no needle.
    """
    found = [(name, getattr(wanted, name)) for name in EQUAL]
    found += (wanted.metadata or {}).items()
    # A tuple by now.
    kinds = cast("tuple[AuditEventType, ...]", wanted.event_type or ())
    if len(kinds) == 1:
        found.append(("event_type", kinds[0].value))
    if wanted.log_level is not None:
        found.append(("log_level", AuditLogLevel(wanted.log_level).value))
    if wanted.outcome is not None:
        found.append(("outcome", AuditOutcome(wanted.outcome).value))
    # In front of a value in the metadata stands the end of its path, whether that is a name or the end of one.
    parts = [(name.rpartition(".")[2], '":"', value, '"') for name, value in found if isinstance(value, str)]
    parts += [("", '"', wanted.tag, '"')] if wanted.tag is not None else []
    parts += [("", "", wanted.message, "")] if wanted.message else []
    # Of a target, what format 1 has too, as the end of "resource"; of an actor, whatever member it is.
    parts += [("", "", target.id, '"')] if (target := cast("Target | None", wanted.target)) and target.id else []
    parts += [("", '"', wanted.actor, '"')] if wanted.actor is not None else []
    return ["".join(each).encode() for each in parts if _AS_THEY_ARE.fullmatch(each[0] + each[2])]


def start_of_end(directory: Path, files: list[str], size: int) -> tuple[int, int, ChainHead]:
    """
    Return where to begin, to check the last *size* bytes of *files*: the index of a file, an offset in it, and a head.

    Short of the whole trail, the first record that begins there is believed, and the last that seals damage. If none
    does, since a power cut left zeros for all of these bytes, more are checked.
    """
    if sealed := last_seal(directory, files, *_last_bytes(directory, files, size)):
        # What is before it is damaged; this record goes on behind that.
        return sealed
    while True:
        index, offset = _last_bytes(directory, files, size)
        if index == offset == 0:
            return 0, 0, start_of(directory)
        begin = None
        for name in files[index:]:
            with reading(directory, name) as fd:
                lines = Lines(fd, name)
                end = lines.end()
                first = lines.first_from(offset, end)
                if begin is None:
                    begin = end if first is None else first[0]
                if first is not None:
                    return index, begin, lines.head_before(*first)
            offset = 0
        size *= 2


def _last_bytes(directory: Path, files: list[str], size: int) -> tuple[int, int]:
    """Return the index of the file and the offset in it with which the last *size* bytes of *files* begin."""
    index, beyond = len(files), -size
    while index > 0 and beyond < 0:
        index -= 1
        beyond += size_of(directory, files[index])
    return index, max(0, beyond)
