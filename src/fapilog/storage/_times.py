"""Which times the records in a part of a file have, so that a question for other times need not read it again."""

from __future__ import annotations

import os
from datetime import UTC
from typing import Final, NamedTuple

from ._lines import split
from .protocol import EventFilter

__all__ = ["Times", "Window"]

# Stands in front of the time in a record, behind the id; a quote inside of an id is escaped.
_BEFORE: Final = b'","timestamp":"'
_SECONDS: Final = len("2026-03-01T12:00:00")
# Where both stand if the id is a UUID, as those are that the trail gives. The format version is one digit.
_USUAL: Final = slice(
    len('{"v":1,"event_id":"') + 36, len('{"v":1,"event_id":"') + 36 + len('","timestamp":"2026-03-01T12:00:00')
)
# The last bytes of a block: they have the checksum of its last record, on which all records before it have a part.
_END_BYTES: Final = 80
# Blocks that are known at most, a quarter of a MiB each, of which each takes some 400 bytes of memory.
_MOST_BLOCKS: Final = 16_384


class Window:
    """
    The times that are asked for, to the second, as records have them.

    Times are written in UTC and in one form, whose bytes are in the order of the times.

    Args:
        wanted: Has the first and the last time.
    """

    def __init__(self, wanted: EventFilter) -> None:
        self._start, self._end = (
            b"" if time is None else time.astimezone(UTC).isoformat()[:_SECONDS].encode()
            for time in (wanted.start_time, wanted.end_time)
        )

    @property
    def is_open(self) -> bool:
        """Whether any time will do."""
        return not (self._start or self._end)

    def meets(self, times: Span) -> bool:
        """Return whether a record may be wanted whose time is one of *times*."""
        return self._start <= times.last and (not self._end or times.first <= self._end)

    def may_have(self, line: bytes) -> bool:
        """Return whether *line* is a record of a time that is wanted, or says no time."""
        return self.is_open or self.meets(_times_of([line]))


class Span(NamedTuple):
    """The first and the last of some times."""

    first: bytes
    last: bytes


_ANY: Final = Span(b"", b"\xff")


class Times:
    """
    The times of the records in the blocks of files, as far as they were read before.

    Nothing is taken from a file's name, its place or its age, nor from the times of neighbours: a clock that was wrong
    for one record is found. A block that was full does not change any more. That the same one is there still, and the
    file was not replaced by another, is seen by the bytes with which it ends. Any number of threads may ask at once.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], tuple[int, bytes, Span]] = {}

    def known(self, fd: int, start: int) -> Span:
        """Return the times in the block at *start*; all times if they are not known."""
        found = self._known.get(_key(fd, start))
        if found is None:
            return _ANY
        offset, end, times = found
        return times if os.pread(fd, len(end), offset) == end else _ANY

    def learn(self, fd: int, start: int, offset: int, data: bytes) -> Span:
        """Return the times of the lines *data* of the block at *start*, which begin at *offset*, and keep them."""
        times = _times_of(split(data))
        if not os.fstat(fd).st_nlink:
            # Of a compressed file, decompressed for this time alone.
            return times
        if len(self._known) < _MOST_BLOCKS or _key(fd, start) in self._known:
            end = data[-_END_BYTES:]
            self._known[_key(fd, start)] = offset + len(data) - len(end), end, times
        return times


def _key(fd: int, start: int) -> tuple[int, int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino, start


def _times_of(lines: list[bytes]) -> Span:
    """Return the first and the last time in *lines*; all times if one of them says none."""
    # What stands between two texts with the same beginning has that beginning too.
    usual = [line[_USUAL] for line in lines]
    first, last = min(usual, default=b""), max(usual, default=b"")
    is_whole = sum(map(len, usual)) == len(usual) * (_USUAL.stop - _USUAL.start)
    if is_whole and first.startswith(_BEFORE) and last.startswith(_BEFORE):
        return Span(first[len(_BEFORE) :], last[len(_BEFORE) :])
    found = [line.partition(_BEFORE)[2][:_SECONDS] for line in lines]
    if all(len(time) == _SECONDS for time in found):
        return Span(min(found, default=b"\xff"), max(found, default=b""))
    return _ANY
