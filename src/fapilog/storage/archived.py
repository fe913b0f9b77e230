"""Storages that read an archive: alone, and as the beginning of the trail that it is of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from msgspec.structs import replace

from ..record.chain import AuditChainVerificationResult, ChainError, Seal
from ..record.damage import DamagedRecord
from ..record.errors import AuditStorageError
from ..record.events import AuditEvent
from ..record.privacy import without_frames
from ..tasks.threads import in_thread
from ._anchor import Anchor, anchor_of
from ._archivereader import ArchiveReader, earliest_file
from ._directory import cannot
from .archive import Archive, require_archive
from .files import FileStorage
from .protocol import EventFilter

__all__ = ["ArchiveStorage", "WithArchive"]


class ArchiveStorage:
    """
    The days of an archive as a storage for reading.

        trail = AuditTrail(storage=ArchiveStorage("s3://clinic-audit/eu"))

    It fetches one day at a time into a file without a name in ``TMPDIR``; memory does not grow with the archive. With a
    *start_time*, `find` leaves out the days that were over two days before: a record is stored in the file of its day,
    or in a later one.

    Args:
        archive: The archive, or its place: a directory, or ``s3://bucket/prefix``.

    Raises:
        ImportError: The library of the archive is missing; the message says how to get it.
        TypeError: *archive* is no archive.
        ValueError: *archive* is an unknown address.
    """

    #: Without an event loop every method blocks the calling thread.
    runs_anywhere = True

    def __init__(self, archive: Archive | Path | str) -> None:
        self._archive = require_archive("archive", archive)
        self._reader = ArchiveReader(self._archive)

    def __repr__(self) -> str:
        return f"<ArchiveStorage {str(self._archive)!r}>"

    async def append(self, event: AuditEvent, *, once: bool = False) -> NoReturn:  # noqa: ARG002  of the protocol
        """Raise AuditStorageError: an archive gets its days from `AuditTrail.apply_retention` alone."""
        raise AuditStorageError(f"{self._archive}: an archive is read, and not written to")

    @without_frames
    async def find(self, wanted: EventFilter, limit: int) -> Sequence[AuditEvent | DamagedRecord]:
        """Do as `AuditStorage.find`; raise AuditStorageError if the archive is away."""
        return await in_thread(self._reader.find, wanted, limit)

    @without_frames
    async def read(self, after: int, limit: int) -> Sequence[AuditEvent | DamagedRecord]:
        """Do as `AuditStorage.read`; raise AuditStorageError if the archive is away."""
        return await in_thread(self._reader.read, after, limit)

    @without_frames
    async def read_lines(self, after: int, limit: int) -> list[bytes]:
        """Do as `AuditStorage.read_lines`; raise AuditStorageError if the archive is away."""
        return await in_thread(self._reader.read_lines, after, limit)

    @without_frames
    async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        """Do as `AuditStorage.verify`; raise AuditStorageError if the archive is away."""
        return await in_thread(self._reader.verify, progress)

    async def aclose(self) -> None:
        """Do nothing: nothing stays open."""


class WithArchive:
    """
    A trail in files that reads its removed days in its archive.

    Removed records that the archive lacks are a `DamagedRecord`. Only a question that reaches back to removed records
    asks the archive, and raises `AuditStorageError` if the archive is away.

    Args:
        storage: The trail.
        archive: Its archive.
    """

    #: As `FileStorage`.
    runs_anywhere = True

    def __init__(self, storage: FileStorage, archive: Archive) -> None:
        self._storage = storage
        self._archive = archive
        self._reader = ArchiveReader(archive)

    async def append(self, event: AuditEvent, *, once: bool = False) -> Seal | None:
        """Store *event* in the trail, as `FileStorage.append` does."""
        return await self._storage.append(event, once=once)

    async def read_lines(self, after: int, limit: int) -> list[bytes]:
        """Return the lines of the trail alone, as `FileStorage.read_lines` does."""
        return await self._storage.read_lines(after, limit)

    async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        """Check the trail alone, as `FileStorage.verify` does."""
        return await self._storage.verify(progress)

    async def aclose(self) -> None:
        """Close the trail, as `FileStorage.aclose` does."""
        await self._storage.aclose()

    async def find(self, wanted: EventFilter, limit: int) -> Sequence[AuditEvent | DamagedRecord]:
        """Do as `AuditStorage.find`, in the trail and then in the archive."""
        while True:
            anchor = await in_thread(self._anchor)
            found = await self._storage.find(wanted, limit)
            lacking = limit - sum(isinstance(item, AuditEvent) for item in found)
            if anchor is not None and lacking > 0 and _reaches_back(wanted, anchor):
                found = [*found, *await in_thread(self._find_removed, wanted, lacking, anchor)]
            if await in_thread(self._anchor) == anchor:
                return found
            # Days were removed meanwhile.

    async def read(self, after: int, limit: int) -> Sequence[AuditEvent | DamagedRecord]:
        """Do as `AuditStorage.read`, in the archive and then in the trail."""
        while True:
            anchor = await in_thread(self._anchor)
            found: Sequence[AuditEvent | DamagedRecord] = []
            if anchor is not None and after < anchor.sequence_number:
                found = await in_thread(self._read_removed, after, limit, anchor)
            if not any(isinstance(item, AuditEvent) for item in found):
                behind = after if anchor is None else max(after, anchor.sequence_number)
                found = [*found, *await self._storage.read(behind, limit)]
            if await in_thread(self._anchor) == anchor:
                return found

    def _find_removed(self, wanted: EventFilter, limit: int, anchor: Anchor) -> list[AuditEvent | DamagedRecord]:
        last = anchor.sequence_number
        before = last + 1 if wanted.before is None else min(wanted.before, last + 1)
        found = self._reader.find(replace(wanted, before=before), limit)
        if before > last:
            found = [*self._lacking_end(anchor), *found]
        if sum(isinstance(item, AuditEvent) for item in found) < limit:
            found += self._lacking_beginning(wanted.after or 0, earliest_file(wanted))
        return found

    def _read_removed(self, after: int, limit: int, anchor: Anchor) -> list[AuditEvent | DamagedRecord]:
        found = self._reader.read(after, limit)
        if not any(isinstance(item, AuditEvent) for item in found):
            return [*found, *self._lacking_end(anchor)]
        return [*self._lacking_beginning(after), *found]

    def _lacking_end(self, anchor: Anchor) -> list[DamagedRecord]:
        """Return the hole between the end of the archive and the trail, if there is one."""
        if anchor.file in self._reader.days():
            return []
        words = f"records up to {anchor.sequence_number} were removed, and the last of them are not in {self._archive}"
        return [DamagedRecord(file=anchor.file, offset=0, size=0, problem=words)]

    def _lacking_beginning(self, after: int, earliest: str | None = None) -> list[DamagedRecord]:
        """Return the hole in front of the archive, if there is one behind record *after* and the file *earliest*."""
        days = self._reader.days()
        first = self._reader.first_number(days)
        if first is None or first <= after + 1 or (earliest is not None and days[0] < earliest):
            return []
        words = f"records {after + 1} to {first - 1} were removed, and are not in {self._archive}"
        return [DamagedRecord(file=days[0], offset=0, size=0, problem=words)]

    def _anchor(self) -> Anchor | None:
        directory = self._storage.directory
        try:
            return anchor_of(directory)
        except ChainError as damage:
            raise AuditStorageError(f"{directory}: {damage}") from damage
        except OSError as error:
            raise cannot("read", directory, error) from error


def _reaches_back(wanted: EventFilter, anchor: Anchor) -> bool:
    """Return whether records that were removed may be wanted."""
    earliest = earliest_file(wanted)
    return (wanted.after or 0) < anchor.sequence_number and (earliest is None or earliest <= anchor.file)
