"""Records that are copied into the files of a trail, each into the file of its own day."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from ..record import chain
from ..record.chain import ChainError, ChainHead
from ..record.errors import AuditStorageError
from ._anchor import Anchor
from ._archive.day import write_anchor
from ._files.access import Access, cannot
from ._files.directory import make_directory, size_of
from ._files.names import date_of, names
from ._files.writer import TrailWriter
from ._replica import stored_at

__all__ = ["Copier"]


class Copier:
    """
    Appends records of another storage to the files of one trail, byte for byte.

    All methods block, and may be called by any thread.

    Args:
        directory: The directory of the files; absolute.
        access: For the files and directories that are made.
    """

    def __init__(self, directory: Path, access: Access) -> None:
        self._directory = directory
        self._access = access
        self._turn = threading.Lock()
        # The day of the records that are copied, which the writer takes for today.
        self._day = 1
        self._writer = TrailWriter(directory, durable=True, now=self._now, access=access)

    def append(self, after: ChainHead, lines: Sequence[bytes], removed: Anchor | None) -> ChainHead:
        """Append *lines*, which follow one another, and return the new head; the rest is as of `FileStorage`."""
        with self._turn:
            earliest = 1 if removed is None else self._begin_behind(removed)
            for day, group in groupby(lines, key=_day):
                self._day = max(day, earliest)
                # Sealed again in its place, a record is the same bytes.
                for result in self._writer.append(map(chain.unsealed, group), after):
                    if isinstance(result, AuditStorageError):
                        raise result
                    assert result is not None  # noqa: S101 - none of them is a `Once`
                    after = ChainHead(result.sequence_number, result.checksum)
        return after

    def close(self) -> None:
        """Close the files; the next append opens them again."""
        self._writer.close()

    def forget(self) -> None:
        """Become as new, in a forked child."""
        self._turn = threading.Lock()
        self._writer.forget()

    def _begin_behind(self, removed: Anchor) -> int:
        """Make the anchor of a trail that has no record yet, and return the first day that its files may be of."""
        try:
            if not any(size_of(self._directory, name) for name in names(self._directory)):
                make_directory(self._directory, self._access)
                write_anchor(self._directory, removed)
            return date_of(removed.file).toordinal() + 1
        except ChainError as damage:
            raise AuditStorageError(f"{self._directory}: {damage}; nothing is appended") from damage
        except OSError as error:
            raise cannot("append to", self._directory, error) from error

    def _now(self) -> datetime:
        return datetime.fromordinal(self._day).replace(tzinfo=UTC)


def _day(line: bytes) -> int:
    """Return the ordinal of the day of the record *line*; 1, so that it goes to the newest file, if it is not known."""
    time = stored_at(line)
    return 1 if time is None else time.toordinal()
