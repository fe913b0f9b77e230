"""Reading a trail from its archive, where that is: a day at a time is here, in a file without a name."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

from ..record.chain import EMPTY, AuditChainVerificationResult, ChainError, ChainStatus
from ..record.errors import AuditStorageError
from ._anchor import ANCHOR, Anchor, decoded_anchor, says
from ._compressed import SUFFIX, Latest, first_bytes, unpacked
from ._directory import cannot, closing
from ._lines import Lines
from ._names import file_of_day
from ._reader import FIRST_BYTES, TrailReader
from ._verifying import front_pruned, verify
from .archive import Archive
from .protocol import EventFilter

__all__ = ["ArchiveReader", "earliest_file"]

# A record goes into the file of the day on which it is stored, or into a later one if the clock was set back. Its own
# time is that of a moment before.
_EARLIER: Final = timedelta(days=2)


class ArchiveReader(TrailReader):
    """
    Reads the days of one archive.

    What is in an archive is never changed. So the day that was read last is kept, and the number of the first record of
    each day. Days that were over long before the time that is asked for are not fetched.

    Args:
        archive: The archive.
    """

    def __init__(self, archive: Archive) -> None:
        super().__init__(Path(str(archive)), durable=False)
        self._archive = archive
        self._latest = Latest()
        # As it was when it was asked last. Replaced as a whole.
        self._sizes: Mapping[str, int] = {}
        self._firsts: dict[tuple[str, int], int | None] = {}

    def days(self) -> list[str]:
        """Return the names of the days that are there, without the ending of compressed ones, the oldest first."""
        self._sizes = self._archive.sizes()
        return sorted(name.removesuffix(SUFFIX) for name in self._sizes if name != ANCHOR)

    def first_number(self, days: list[str]) -> int | None:
        """Return the number of the first record in *days* that can be read; None if there is none."""
        with self._failures():
            number = self._first_number(days)
        return None if number == sys.maxsize else number

    def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        """
        Check every record, and call *progress* with how many so far; damage is returned, not raised.

        A day at a time is here. Only if something is not as it should be, all of them are fetched, to say what.

        Raises:
            AuditStorageError: The archive is away.
        """
        with self._failures():
            try:
                anchor = self._anchor()
                found = self._checked(anchor, progress)
            except ChainError:
                found = None
            return self._verified_here(progress) if found is None else found

    def _checked(
        self, anchor: Anchor | None, progress: Callable[[int], None] | None
    ) -> AuditChainVerificationResult | None:
        """Return the verdict if every record is as it should be; else None, or raise ChainError."""
        start = head = EMPTY if anchor is None else anchor.head

        def note(sequence_number: int) -> None:
            if progress is not None:
                progress(sequence_number - start.sequence_number)

        for name in self.days():
            with self._opened(name) as fd:
                head, _, rest = Lines(fd, name).follow(0, head, note)
            if rest:
                return None
        count = head.sequence_number - start.sequence_number
        if anchor is None:
            return AuditChainVerificationResult(valid=True, events_checked=count)
        if not any(says(line, anchor) for line in self.read_lines(anchor.record - 1, 1)):
            return None
        return AuditChainVerificationResult(
            valid=True,
            events_checked=count,
            error_message=front_pruned(anchor),
            status=ChainStatus.FRONT_PRUNED,
            pruned=start,
        )

    def _verified_here(self, progress: Callable[[int], None] | None) -> AuditChainVerificationResult:
        with tempfile.TemporaryDirectory(prefix="fapilog-") as here:
            for name in sorted(self._archive.sizes()):
                with contextlib.closing(self._archive.open(name)) as source, Path(here, name).open("wb") as target:
                    shutil.copyfileobj(source, target)
            return verify(Path(here), progress)

    def _anchor(self) -> Anchor | None:
        if ANCHOR not in self._archive.sizes():
            return None
        with contextlib.closing(self._archive.open(ANCHOR)) as file:
            return decoded_anchor(file)

    def _stored(self) -> tuple[list[str], int | None]:
        return self.days(), None

    def _in_time(self, files: list[str], wanted: EventFilter) -> list[str]:
        earliest = earliest_file(wanted)
        return files if earliest is None else [name for name in files if name >= earliest]

    def _opened(self, name: str) -> contextlib.AbstractContextManager[int]:
        return closing(self._latest.opened((name, self._size(name)), lambda: self._fetched(name)))

    def _fetched(self, name: str) -> int:
        with contextlib.closing(self._archive.open(name + SUFFIX)) as file:
            return unpacked(file, name + SUFFIX)

    def _first_when_compressed(self, name: str) -> int | None:
        key = name, self._size(name)
        if key not in self._firsts:
            self._firsts[key] = super()._first_when_compressed(name)
        return self._firsts[key]

    def _beginning(self, name: str) -> bytes:
        if not self._size(name):
            return b""
        with contextlib.closing(self._archive.open(name + SUFFIX, FIRST_BYTES)) as file:
            return first_bytes(file.read(FIRST_BYTES), FIRST_BYTES)

    def _size(self, name: str) -> int:
        return self._sizes.get(name + SUFFIX, 0)

    @contextlib.contextmanager
    def _failures(self) -> Generator[None, None, None]:
        try:
            yield
        except ChainError as damage:
            raise AuditStorageError(f"{self._archive}: {damage}") from damage
        except OSError as error:
            raise cannot("read", self._archive, error) from error


def earliest_file(wanted: EventFilter) -> str | None:
    """Return the name of the oldest file that may have what is *wanted*, by the time; None if that may be any."""
    if wanted.start_time is None:
        return None
    return file_of_day(max(1, wanted.start_time.toordinal() - _EARLIER.days))
