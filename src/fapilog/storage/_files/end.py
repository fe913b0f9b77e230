"""Where a trail ends, as far as one process knows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from ...record import chain
from ...record.chain import ChainError, ChainHead, ChainStatus, Seal
from .._anchor import anchor_of, start_of
from .directory import is_named, reading, size_of
from .lines import lines_of
from .names import file_of_day, names
from .recovering import Start, last_seal

__all__ = [
    "CHECKED_BYTES",
    "TAIL_BYTES",
    "End",
    "Listing",
    "Today",
    "check_newest",
    "start_of_end",
    "utc_now",
    "where_to_check",
]

# The last bytes of a record, from the digits of its checksum on: no other record ends like it.
TAIL_BYTES: Final = len('"}\n') + 64

CHECKED_BYTES: Final = 16 << 20
"""How much of the trail's end a writer reads before its first append: a start does not take longer every day."""

# How many of the newest files a writer reads before its first append. With years of days that have few records, opening
# the files takes longer than reading them.
_CHECKED_FILES: Final = 64
# Nanoseconds that two changes of a directory may be apart, and have the same time. Kernels before 6.13 count the time
# in ticks of a clock of at least 100 Hz: https://docs.kernel.org/filesystems/multigrain-ts.html
_TICK: Final = 20_000_000


class End(msgspec.Struct, frozen=True):
    """
    The end of the trail, as far as this process knows.

    Replaced as a whole, so that a `KeyboardInterrupt` can't leave the size of a later record beside the head of an
    earlier one.
    """

    # The file that is written to, its size, and its last bytes.
    name: str
    size: int
    tail: bytes
    directory: tuple[int, int, int]
    # The head in two fields: a `ChainHead` per record would add three percent to an append.
    sequence_number: int
    checksum: str | None
    # While the file is empty: the one with the newest record, and the offset behind that record.
    older: tuple[str, int] | None

    @classmethod
    def of(cls, directory: tuple[int, int, int], name: str, size: int, head: ChainHead, record: tuple[str, int]) -> End:
        """Return the end at *size* of the file *name*, where *record* says where the newest record ends."""
        tail, older = (_tail(head), None) if size else (b"", record)
        return cls(name, size, tail, directory, *head, older)

    @property
    def head(self) -> ChainHead:
        """The number and the checksum of the newest record."""
        return ChainHead(self.sequence_number, self.checksum)

    def sealed(self, bodies: list[bytes]) -> tuple[list[bytes], list[Seal]]:
        """Return the lines to store for *bodies* behind this end, and their seals."""
        lines, seals, sequence_number, checksum = list[bytes](), list[Seal](), self.sequence_number, self.checksum
        for body in bodies:
            line, seal = chain.seal(body, sequence_number + 1, checksum)
            sequence_number, _, checksum = seal
            lines.append(line)
            seals.append(seal)
        return lines, seals

    @property
    def record(self) -> tuple[str, int]:
        """The file with the newest record, and the offset behind that record."""
        return self.older or (self.name, self.size)


class Listing:
    """
    The names of a trail's files, listed only if some were made or removed: years of days take longer than a write.

    Args:
        directory: The directory of the files.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen = 0
        # Whether the files were listed so much later than the last change of the directory that every change since then
        # has another time.
        self._is_settled = False

    def begin(self) -> None:
        """Note that the directory has changed just now."""
        self._seen, self._is_settled = time.monotonic_ns(), False

    def doubt(self) -> None:
        """List the files the next time, whatever the time of the directory says."""
        self._is_settled = False

    def ends_with(self, end: End, fd: int) -> bool:
        """Return whether the last file is that of *end*, which *fd* is of, while the directory is as *end* knows it."""
        if self._is_settled:
            return True
        is_last = self.names(end, end.directory)[-1:] == [end.name] and is_named(f"{self._directory}/{end.name}", fd)
        self._is_settled &= is_last
        return is_last

    def names(self, known: End | None, directory: tuple[int, int, int]) -> list[str]:
        """Return the names of the trail's files, or the last alone while *directory* is as it is *known*."""
        now = time.monotonic_ns()
        if known is None or known.directory != directory:
            self._seen, self._is_settled = now, False
        elif self._is_settled and known.older is None:
            return [known.name]
        else:
            self._is_settled = now - self._seen > _TICK
        return names(self._directory)


def utc_now() -> datetime:
    """Return the time that decides which day's file is written to."""
    return datetime.now(UTC)


class Today:
    """
    Returns the name of today's file when it is called; made once a day, as `strftime` takes as long as a write.

    Args:
        now: Returns the time.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._day = 0
        self._name = ""

    def __call__(self) -> str:
        """Return the name of today's file."""
        day = self._now().toordinal()
        if day != self._day:
            # In this order: a signal handler may raise in between, and the name would stay that of another day.
            self._name = file_of_day(day)
            self._day = day
        return self._name


def _tail(head: ChainHead) -> bytes:
    """Return the last bytes of the record that is the newest of *head*."""
    return f'{head.checksum}"}}\n'.encode()


def where_to_check(directory: Path, known: End | None, files: list[str], *, behind_seal: bool) -> Start:
    """
    Return where to check: behind the *known* end, or in the last `CHECKED_BYTES` if there are more, or it is not known.

    With *behind_seal*, after damage, that is at the record that has sealed it since the known end, if there is one.
    """
    if behind_seal:
        sealed = last_seal(directory, files, *_last_bytes(directory, files, CHECKED_BYTES))
        if sealed is not None and known is not None and sealed.head.sequence_number >= known.sequence_number:
            return sealed
    if known is None or not known.sequence_number:
        return _start(directory, files)
    name, behind = known.record
    anchor = anchor_of(directory)
    if anchor is not None and name <= anchor.file and known.sequence_number <= anchor.sequence_number:
        # Nothing was stored by this process since that day was removed.
        return _start(directory, files)
    if name not in files:
        raise ChainError(ChainStatus.GAP, f"{name} is gone; it held records up to {known.sequence_number}")
    index = files.index(name)
    sizes = [size_of(directory, each) for each in files[index:]]
    if sizes[0] < behind:
        message = f"{name} was cut: it has {sizes[0]} bytes, and {behind} were stored"
        raise ChainError(ChainStatus.GAP, message)
    start = Start(index, behind, known.head)
    if sum(sizes) - behind <= CHECKED_BYTES:
        return start
    with reading(directory, name) as fd:
        check_newest(fd, known)
    # Not from an earlier record than the newest that is known, even if the records say so.
    return max(start_of_end(directory, files), start, key=lambda each: each[:2])


def _start(directory: Path, files: list[str]) -> Start:
    """Return where to begin at the start of a process: only in the newest files, however little the older ones hold."""
    older = max(0, len(files) - _CHECKED_FILES)
    start = start_of_end(directory, files[older:])
    if not older or start[:2] != (0, 0):
        return start._replace(file=older + start.file)
    for index in range(older, len(files)):
        with lines_of(directory, files[index]) as lines:
            # The first record is believed, as it would be at any other place in the trail.
            if first := lines.first_from(0, lines.end()):
                return Start(index, first[0], lines.head_before(*first))
    return start_of_end(directory, files)


def check_newest(fd: int, known: End) -> None:
    """Raise `ChainError` if the newest record that is *known* is not where it was stored in its file."""
    name, behind = known.record
    if behind and os.pread(fd, TAIL_BYTES, behind - TAIL_BYTES) != _tail(known.head):
        message = f"{name} was cut or replaced: record {known.sequence_number} is not where it was stored"
        raise ChainError(ChainStatus.BROKEN_LINK, message)


def start_of_end(directory: Path, files: list[str]) -> Start:
    """
    Return where to begin, to check the last `CHECKED_BYTES` of *files*.

    Short of the whole trail, the first record that begins there is believed, and the last that seals damage. If none
    does, since a power cut left zeros for all of these bytes, more are checked.
    """
    size = CHECKED_BYTES
    if sealed := last_seal(directory, files, *_last_bytes(directory, files, size)):
        # The records before it are damaged; the chain continues with this record.
        return sealed
    while True:
        index, offset = _last_bytes(directory, files, size)
        if index == offset == 0:
            return Start(0, 0, start_of(directory))
        begin = None
        for name in files[index:]:
            with lines_of(directory, name) as lines:
                end = lines.end()
                first = lines.first_from(offset, end)
                if begin is None:
                    begin = end if first is None else first[0]
                if first is not None:
                    return Start(index, begin, lines.head_before(*first))
            offset = 0
        size *= 2


def _last_bytes(directory: Path, files: list[str], size: int) -> tuple[int, int]:
    """Return the index of the file and the offset in it with which the last *size* bytes of *files* begin."""
    index, beyond = len(files), -size
    while index > 0 and beyond < 0:
        index -= 1
        beyond += size_of(directory, files[index])
    return index, max(0, beyond)
