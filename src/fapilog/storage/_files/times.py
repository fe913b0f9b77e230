"""
The times of the records in the parts of files, so that a question for other times need not read them.

They are kept in memory, and for the next process in a file of the directory, the index: a line of JSON for every part.
An answer is exact with it and without it. Clocks step, and several processes write, so that no order of the times is
taken for granted: the first and the last time of a part are times of its records. Nothing is lost with the index: parts
that it lacks, or that don't match it, are read again.

Its entry for a part is believed while that part ends with the same bytes. They have the checksum of its last record, on
which all before it have a part. That shows a file that was cut, replaced or restored, but not a lie about the times. So
the index is read only if its owner could as well have removed the records: the owner of the directory, root, or this
process's user; and `fapilog verify` compares it with the records.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec

from ...record.chain import ChainError
from ..protocol import EventFilter
from .access import allow_as
from .descriptors import close, closing, write_all
from .directory import newest_file, open_file
from .lines import Lines, split
from .names import SUFFIX

__all__ = ["ANY", "INDEX", "Span", "Times", "Window", "times_of", "to_the_second"]

INDEX: Final = "audit_times.index"
"""The name of the index in the directory of a trail."""

# Stands in front of the time in a record, behind the id; a quote inside of an id is escaped.
_BEFORE: Final = b'","timestamp":"'
_SECONDS: Final = len("2026-03-01T12:00:00")
# The place of both if the id is a UUID, as the trail's own ids are. The format version is one digit.
_USUAL: Final = slice(
    len('{"v":1,"event_id":"') + 36, len('{"v":1,"event_id":"') + 36 + len('","timestamp":"2026-03-01T12:00:00')
)
# The last bytes of a part, the checksum of its last record among them; in a compressed file, which is one part, the
# checksum of its whole content: https://www.rfc-editor.org/rfc/rfc1952#page-5
_TAIL_BYTES: Final = 80
# The most parts that are kept: 16 GiB of records, some 30 MiB of memory and 15 of the index.
_MOST_PARTS: Final = 65_536
_MOST_BYTES: Final = 24 << 20


# To look for a number takes less time than for bytes.
_NEWLINE: Final = ord("\n")
# Parts that a writer may leave for its next save: a question reads so many parts in a few milliseconds.
_MOST_UNSAVED: Final = 8


class Span(NamedTuple):
    """The first and the last of some times, to the second, in the form of records."""

    first: str
    last: str


ANY: Final = Span("", "~")
"""All times."""


class Window:
    """
    The times of a question, to the second, in the form of records.

    Times are written in UTC and in one form, whose characters are in the order of the times.

    Args:
        wanted: The question, with the first and the last time.
    """

    def __init__(self, wanted: EventFilter) -> None:
        self._start, self._end = (
            "" if time is None else to_the_second(time) for time in (wanted.start_time, wanted.end_time)
        )

    @property
    def is_open(self) -> bool:
        """Whether all times are wanted."""
        return not (self._start or self._end)

    def meets(self, times: Span) -> bool:
        """Return whether a record may be wanted whose time is one of *times*."""
        return self._start <= times.last and (not self._end or times.first <= self._end)

    def may_have(self, line: bytes) -> bool:
        """Return whether *line* is a record of a wanted time, or has no time."""
        return self.is_open or self.meets(_times_in(line + b"\n", 0, len(line) + 1))


class _Part(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A part of a file: its place, its last bytes, and the times of its records."""

    file: str
    start: Annotated[int, msgspec.Meta(ge=0)]
    end: Annotated[int, msgspec.Meta(ge=_TAIL_BYTES, lt=1 << 62)]
    tail: Annotated[bytes, msgspec.Meta(min_length=_TAIL_BYTES, max_length=_TAIL_BYTES)]
    first: str
    last: str


# Made once, by the thread that imports this module: two threads that make one at the same time crash the process.
_part_in: Final = msgspec.json.Decoder(_Part).decode


class Times:
    """
    The times of the records in the parts of a trail's files that were read before.

    Any number of threads may ask at once, and any number of processes read and write the index. Where it can't be read
    or written, all stays in memory; nothing is raised for that.

    Args:
        directory: The directory of the files; absolute.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._parts: dict[tuple[str, int], _Part] = {}
        # Parts that the index lacks.
        self._new: list[_Part] = []
        # The device and inode of the index, and up to where it was read.
        self._read: tuple[int, int, int] = (0, 0, 0)

    def load(self) -> None:
        """Read the lines that were added to the index since it was read."""
        with (
            contextlib.suppress(OSError),
            closing(open_file(self._directory, INDEX, os.O_RDONLY | os.O_NOFOLLOW)) as fd,
        ):
            found = os.fstat(fd)
            if not self._is_trusted(found):
                return
            device, inode, offset = self._read
            if (device, inode) != (found.st_dev, found.st_ino) or offset > found.st_size:
                offset = 0
            data = os.pread(fd, min(found.st_size, _MOST_BYTES) - offset, offset)
            data = data[: data.rfind(b"\n") + 1]
            for line in split(data):
                # A part whose line a crash has torn is read again.
                with contextlib.suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                    self._keep(_part_in(line))
            self._read = found.st_dev, found.st_ino, offset + len(data)

    def known(self, fd: int, name: str, start: int, end: int) -> Span:
        """Return the times in the part from *start* to *end*, or a little more, of an open file; all if not known."""
        part = self._parts.get((name, start))
        if part is None or part.end < end or os.pread(fd, _TAIL_BYTES, part.end - _TAIL_BYTES) != part.tail:
            return ANY
        return Span(part.first, part.last)

    def learn(self, name: str, start: int, lines: Lines, end: int) -> Span:
        """Return the times in the block at *start* of *lines*, which end at *end*, and keep them."""
        offset, data, begin, behind = lines.view(start, end)
        times = _times_in(data, begin, behind)
        self._learn(name, start, offset + behind, data[max(begin, behind - _TAIL_BYTES) : behind], times)
        return times

    def of_compressed(self, name: str) -> Span:
        """Return the times in a file if it is compressed, without decompressing it; all if they are not known."""
        packed = name + SUFFIX
        if (packed, 0) in self._parts and not os.path.exists(self._directory / name):
            with contextlib.suppress(OSError), closing(open_file(self._directory, packed)) as fd:
                return self.known(fd, packed, 0, os.fstat(fd).st_size)
        return ANY

    def learn_compressed(self, name: str, lines: Lines) -> Span:
        """Return the times in a compressed file, of which *lines* are the lines, and keep them."""
        times = times_of(lines)
        packed = name + SUFFIX
        with contextlib.suppress(OSError), closing(open_file(self._directory, packed)) as fd:
            size = os.fstat(fd).st_size
            self._learn(packed, 0, size, os.pread(fd, _TAIL_BYTES, size - _TAIL_BYTES), times)
        return times

    def note(self, fd: int, name: str, begin: int, end: int, *, is_over: bool = False) -> None:
        """
        Learn the times of the parts that are complete now, of records that were just appended, and save some at once.

        Args:
            fd: The file, open for reading.
            name: Its name.
            begin: The offset of the first new record.
            end: The offset behind the last one.
            is_over: Whether nothing will be appended to the file any more.
        """
        starts = Lines.whole_blocks(begin, end)
        if is_over:
            starts = Lines.blocks(starts.stop, end)
        if starts:
            with contextlib.suppress(OSError):
                for start in starts:
                    self.learn(name, start, Lines(fd, name), end)
                if is_over or len(self._new) >= _MOST_UNSAVED:
                    self.save()

    def save(self) -> None:
        """Append new parts to the index; if there is none, make it, with the group and mode of the newest file."""
        if not self._new:
            return
        new, self._new = self._new, []
        with contextlib.suppress(OSError):
            owner = os.stat(self._directory).st_uid
            # An index that another user owns would be of no use to the other processes.
            if os.geteuid() in (0, owner):
                # In one write, behind a newline: a line that another write has left torn takes none of these with it.
                data = b"\n".join([b"", *map(msgspec.json.encode, new), b""])
                with closing(self._opened()) as fd:
                    if os.fstat(fd).st_size + len(data) <= _MOST_BYTES:
                        write_all(fd, data)

    def tidied(self, files: set[str]) -> bytes:
        """Return the index with the parts of these files only."""
        self.load()
        parts = [part for part in self._parts.values() if part.file in files]
        return b"".join(msgspec.json.encode(part) + b"\n" for part in parts)

    def check(self) -> str | None:
        """Compare the index with the records; if these have times that it denies, throw it away, and return that."""
        self.load()
        parts = sorted(self._parts.values(), key=lambda part: part.file)
        for name, of_file in itertools.groupby(parts, key=lambda part: part.file):
            # A day that was compressed since, and is damaged, can't be compared.
            with contextlib.suppress(OSError, ChainError), closing(open_file(self._directory, name)) as fd:
                if any(self._is_wrong(part, fd) for part in of_file):
                    self._parts.clear()
                    words = f"{self._directory / INDEX} denies times that records have"
                    try:
                        os.unlink(self._directory / INDEX)
                    except OSError:
                        return f"{words}: delete it"
                    return f"{words}: it is deleted, and made anew"
        return None

    @staticmethod
    def _is_wrong(part: _Part, fd: int) -> bool:
        """Return whether *part*, if its last bytes are in the open file, lacks a time of its records."""
        if part.file.endswith(SUFFIX) or os.pread(fd, _TAIL_BYTES, part.end - _TAIL_BYTES) != part.tail:
            return False
        found = _times_in(*Lines(fd, part.file).view(part.start, part.end)[1:])
        return found.first < part.first or found.last > part.last

    def _opened(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW
        with contextlib.suppress(FileNotFoundError):
            fd = open_file(self._directory, INDEX, flags)
            if self._is_trusted(os.fstat(fd)):
                return fd
            # Nobody reads it.
            close(fd)
            os.unlink(self._directory / INDEX)
        with newest_file(self._directory) as newest:
            fd = open_file(self._directory, INDEX, flags | os.O_CREAT | os.O_EXCL)
            if newest is not None:
                allow_as(fd, newest)
        return fd

    def _is_trusted(self, found: os.stat_result) -> bool:
        owners = {0, os.geteuid(), os.stat(self._directory).st_uid}
        return found.st_uid in owners and not found.st_mode & stat.S_IWOTH

    def _learn(self, name: str, start: int, end: int, tail: bytes, times: Span) -> None:
        if len(tail) == _TAIL_BYTES:
            part = _Part(name, start, end, tail, *times)
            if self._parts.get((name, start)) != part and self._keep(part):
                self._new.append(part)

    def _keep(self, part: _Part) -> bool:
        key = part.file, part.start
        is_kept = len(self._parts) < _MOST_PARTS or key in self._parts
        if is_kept:
            self._parts[key] = part
        return is_kept


def to_the_second(time: datetime) -> str:
    """Return *time* in the form of records, without the parts of its second."""
    return time.astimezone(UTC).isoformat()[:_SECONDS]


def times_of(lines: Lines) -> Span:
    """Return the first and the last time in *lines*; all times if a line has none."""
    end = lines.end()
    spans = [_times_in(*lines.view(start, end)[1:]) for start in lines.blocks(0, end)]
    return Span(min((each.first for each in spans), default="~"), max((each.last for each in spans), default=""))


def _times_in(data: bytes, begin: int, end: int) -> Span:
    """Return the first and the last time in the lines of *data*; all times if a line has none."""
    usual, place = list[bytes](), begin
    while place < end:
        usual.append(data[place + _USUAL.start : place + _USUAL.stop])
        place = data.find(_NEWLINE, place) + 1 or end
    # A text between two texts with the same beginning has that beginning too.
    first, last = min(usual, default=b""), max(usual, default=b"")
    all_usual = b"".join(usual)
    # A shorter line ends in there.
    is_whole = len(all_usual) == len(usual) * (_USUAL.stop - _USUAL.start) and b"\n" not in all_usual
    if is_whole and first.startswith(_BEFORE) and last.startswith(_BEFORE):
        return _span(first[len(_BEFORE) :], last[len(_BEFORE) :])
    found = [line.partition(_BEFORE)[2][:_SECONDS] for line in split(data[begin:end])]
    if all(len(time) == _SECONDS for time in found):
        return _span(min(found, default=b"~"), max(found, default=b""))
    return ANY


def _span(first: bytes, last: bytes) -> Span:
    return Span(first.decode(), last.decode()) if first.isascii() and last.isascii() else ANY
