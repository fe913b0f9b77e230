"""Reading a trail from its archive: one day at a time is fetched, into a file without a name."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from ...record.chain import EMPTY, AuditChainVerificationResult, ChainError, ChainHead, ChainStatus, verdict
from .._anchor import ANCHOR, Anchor, decoded_anchor, front_pruned, says
from .._files.compressed import LastUnpacked, first_bytes, unpacked
from .._files.days import FIRST_BYTES, Days
from .._files.descriptors import closing
from .._files.effort import Effort
from .._files.lines import Lines
from .._files.names import SUFFIX, is_set_aside
from .._files.reader import TrailReader
from .._files.times import Times, times_of, to_the_second
from .._files.verifying import set_aside, verify
from ..archive import Archive
from ..protocol import EventFilter
from .latest import HEADER_BYTES, latest_in

__all__ = ["ArchiveReader", "ArchivedDays"]


class ArchivedDays(Days):
    """
    The days of one archive.

    A file in an archive never changes. So the day that was read last is kept, and the first record numbers of all days.

    Args:
        archive: The archive.
    """

    def __init__(self, archive: Archive) -> None:
        # As it says itself: a path has but one slash behind "s3:".
        super().__init__(Path(str(archive)), str(archive))
        self._archive = archive
        self._unpacked = LastUnpacked()
        # As it was when it was asked last. Replaced as a whole.
        self._sizes: Mapping[str, int] = {}
        self._firsts: dict[tuple[str, int], tuple[int, int] | None] = {}
        self._latest_times: dict[tuple[str, int], str | None] = {}

    def names(self) -> list[str]:
        """Return the names of the days that are there, without the ending of compressed ones, the oldest first."""
        self._sizes = self._archive.sizes()
        return sorted(name.removesuffix(SUFFIX) for name in self._sizes if name.endswith(SUFFIX))

    def first_number(self, days: list[str]) -> int | None:
        """Return the number of the first record in *days* that can be read; None if there is none."""
        with self.failures():
            number = self._first_number(days)
        return None if number == sys.maxsize else number

    def last_before(self, time: datetime) -> int:
        """
        Return the number of a record up to which no record of the archive has that *time* or a later one; 0 for none.

        It asks for the beginnings of some days.

        Raises:
            AuditStorageError: The archive is away.
        """
        with self.failures():
            files = self.names()
            # The number of the newest record is not known without the newest day.
            count = min(self.earlier(files, time), len(files) - 1)
            return self._first_number(files[count:]) - 1 if count > 0 else 0

    def earlier(self, files: list[str], time: datetime) -> int:
        """Return how many of the first *files* are known to have no record of that *time* or a later one."""
        start = to_the_second(time)
        # The times are of all files up to one: whichever file it ends at, all before it are earlier.
        count = bisect_right(files, 0, key=lambda name: int(not self.is_earlier(name, start)))
        return count if count and self.is_earlier(files[count - 1], start) else 0

    def is_earlier(self, name: str, start: str) -> bool:
        """Return whether all records of that day, and of the days before it, are known to be earlier than *start*."""
        key = name, self.size(name)
        if not key[1]:
            return False
        if key not in self._latest_times:
            with contextlib.closing(self._archive.open(name + SUFFIX, min(HEADER_BYTES, key[1]))) as file:
                self._latest_times[key] = latest_in(file.read(HEADER_BYTES))
        latest = self._latest_times[key]
        return latest is not None and latest < start

    def anchor(self) -> Anchor | None:
        """Return the end of the days that were removed before the archive was begun; None if none were."""
        if ANCHOR not in self._archive.sizes():
            return None
        with contextlib.closing(self._archive.open(ANCHOR)) as file:
            return decoded_anchor(file.read(FIRST_BYTES))

    def set_aside(self) -> tuple[str, ...]:
        """Return the names of the files with incomplete records that were there at the last `names`, sorted."""
        return tuple(sorted(filter(is_set_aside, self._sizes)))

    def stored(self, effort: Effort) -> tuple[list[str], int | None]:  # noqa: ARG002  nobody writes here
        """Do as `Days.stored`, once the archive was asked for its files."""
        return self.names(), None

    def in_time(self, files: list[str], wanted: EventFilter) -> list[str]:
        """Do as `Days.in_time`."""
        return files if wanted.start_time is None else files[self.earlier(files, wanted.start_time) :]

    def start(self) -> ChainHead:
        """Do as `Days.start`."""
        anchor = self.anchor()
        return EMPTY if anchor is None else anchor.head

    def size(self, name: str) -> int:
        """Return the size of the compressed file; 0 if it is not there."""
        return self._sizes.get(name + SUFFIX, 0)

    def opened(self, name: str) -> contextlib.AbstractContextManager[int]:
        """Do as `Days.opened`: fetch the day, unless it is the last that was fetched."""
        return closing(self._unpacked.opened((name, self.size(name)), lambda: self._fetched(name)))

    def _first_when_compressed(self, name: str) -> tuple[int, int] | None:
        key = name, self.size(name)
        if key not in self._firsts:
            self._firsts[key] = super()._first_when_compressed(name)
        return self._firsts[key]

    def _beginning(self, name: str) -> bytes:
        if not (size := min(FIRST_BYTES, self.size(name))):
            return b""
        with contextlib.closing(self._archive.open(name + SUFFIX, size)) as file:
            return first_bytes(file.read(size), FIRST_BYTES)

    def _fetched(self, name: str) -> int:
        with contextlib.closing(self._archive.open(name + SUFFIX)) as file:
            return unpacked(file, name + SUFFIX)


class ArchiveReader(TrailReader):
    """
    Reads the days of one archive.

    Days that are known to have no record of the wanted time are not fetched.

    Args:
        archive: The archive.

    Attributes:
        days: The days.
    """

    def __init__(self, archive: Archive) -> None:
        self.days: ArchivedDays = ArchivedDays(archive)
        # No directory has it: the times stay in memory.
        super().__init__(self.days, durable=False, times=Times(Path(os.devnull)))
        self._archive = archive

    def verify(
        self, progress: Callable[[int], None] | None = None, trail: TrailReader | None = None
    ) -> AuditChainVerificationResult:
        """
        Check every record, and call *progress* with how many so far; damage is returned, not raised.

        One day at a time is fetched. Only if a record is damaged, all days are fetched, to describe the damage.

        Args:
            progress: Called with how many records were checked so far.
            trail: The trail that the archive is of, if it is at hand. The record about the days that were removed
                before the archive was begun may be there.

        Raises:
            AuditStorageError: The archive is away.
        """
        with self.days.failures():
            try:
                anchor = self.days.anchor()
                found = self._checked(anchor, progress, trail)
            except ChainError:
                found = None
            return self._verified_here(progress) if found is None else found

    def _checked(
        self, anchor: Anchor | None, progress: Callable[[int], None] | None, trail: TrailReader | None
    ) -> AuditChainVerificationResult | None:
        """Return the verdict if every record is intact; else None, or raise ChainError."""
        start = head = EMPTY if anchor is None else anchor.head

        def note(sequence_number: int) -> None:
            if progress is not None:
                progress(sequence_number - start.sequence_number)

        for name in self.days.names():
            with self.days.opened(name) as fd:
                head, _, rest = Lines(fd, name).follow(0, head, note)
                if self.days.is_earlier(name, times_of(Lines(fd, name)).last):
                    words = f"{self.days.place}: the header of {name}{SUFFIX} denies times that its records have"
                    return verdict(ChainError(ChainStatus.ALTERED, words, head), words)
            if rest:
                return None
        aside, notes, status = self.days.set_aside(), list[str](), ChainStatus.OK
        if anchor is not None:
            readers = [self] if trail is None else [self, trail]
            lines = [line for reader in readers for line in reader.read_lines(anchor.record - 1, 1)]
            if not any(says(line, anchor) for line in lines):
                return None
            notes, status = [front_pruned(anchor)], ChainStatus.FRONT_PRUNED
        if aside:
            notes, status = [set_aside(aside), *notes], ChainStatus.TORN_TAIL
        return AuditChainVerificationResult(
            valid=True,
            events_checked=head.sequence_number - start.sequence_number,
            error_message="; ".join(notes) or None,
            status=status,
            set_aside=aside,
            pruned=None if anchor is None else start,
        )

    def _verified_here(self, progress: Callable[[int], None] | None) -> AuditChainVerificationResult:
        with tempfile.TemporaryDirectory(prefix="fapilog-") as here:
            for name in sorted(self._archive.sizes()):
                with contextlib.closing(self._archive.open(name)) as source, Path(here, name).open("wb") as target:
                    shutil.copyfileobj(source, target)
            return verify(Path(here), progress)
