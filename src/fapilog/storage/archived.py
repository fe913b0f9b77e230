"""Storages that read an archive: alone, and as the beginning of the trail that it is of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from ..record.chain import AuditChainVerificationResult, ChainError, Seal
from ..record.damage import DamagedRecord
from ..record.errors import AuditStorageError
from ..record.events import AuditEvent
from ..record.privacy import without_frames
from ..tasks.threads import in_thread
from ._anchor import Anchor, anchor_of
from ._archive.addresses import require_archive
from ._archive.reader import ArchiveReader
from ._files.access import cannot
from ._files.places import Page, Place
from ._files.times import to_the_second
from .archive import Archive
from .files import FileStorage
from .protocol import EventFilter

__all__ = ["ArchiveStorage", "WithArchive"]


class ArchiveStorage:
    """
    The days of an archive as a storage for reading.

        trail = AuditTrail(storage=ArchiveStorage("s3://clinic-audit/eu"))

    It fetches one day at a time into a file without a name in ``TMPDIR``; memory does not grow with the archive. With a
    *start_time*, days before it are not fetched: the compressed day says up to which time records are in it and before
    it, as they were when it was compressed. Days that another program has compressed do not say that.

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
        self._archive = require_archive(archive)
        self._reader = ArchiveReader(self._archive)

    def __str__(self) -> str:
        """Return the place of the archive."""
        return str(self._archive)

    def __repr__(self) -> str:
        return f"<ArchiveStorage {str(self._archive)!r}>"

    async def append(self, event: AuditEvent, *, once: bool = False) -> NoReturn:  # noqa: ARG002  of the protocol
        """Raise AuditStorageError: an archive gets its days from `AuditTrail.apply_retention` alone."""
        raise AuditStorageError(f"{self._archive}: an archive is read, and not written to")

    @without_frames
    async def find(self, wanted: EventFilter, limit: int) -> Sequence[AuditEvent | DamagedRecord]:
        """Do as `AuditStorage.find`; raise AuditStorageError if the archive is away."""
        return (await self.page_from(None, wanted, limit)).items

    @without_frames
    async def page_from(
        self, place: Place | None, wanted: EventFilter, limit: int, *, oldest_first: bool = False
    ) -> Page:
        """Do as `FileStorage.page_from`; raise AuditStorageError if the archive is away."""
        read = self._reader.oldest_page if oldest_first else self._reader.page
        return await in_thread(read, wanted, limit, place, is_left=True)

    @without_frames
    async def last_before(self, time: datetime) -> int:
        """Do as `AuditStorage` says; raise AuditStorageError if the archive is away."""
        return await in_thread(self._reader.days.last_before, time, is_left=True)

    @without_frames
    async def read(self, after: int, limit: int) -> Sequence[AuditEvent | DamagedRecord]:
        """Do as `AuditStorage.read`; raise AuditStorageError if the archive is away."""
        return await in_thread(self._reader.read, after, limit, is_left=True)

    @without_frames
    async def read_lines(self, after: int, limit: int) -> list[bytes]:
        """Do as `AuditStorage.read_lines`; raise AuditStorageError if the archive is away."""
        return await in_thread(self._reader.read_lines, after, limit, is_left=True)

    @without_frames
    async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        """Do as `AuditStorage.verify`; raise AuditStorageError if the archive is away."""
        return await in_thread(self._reader.verify, progress, is_left=True)

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

    async def last_before(self, time: datetime) -> int:
        """Do as `AuditStorage` says, for the removed records; raise AuditStorageError if the archive is away."""
        anchor = await in_thread(self._anchor)
        if anchor is None:
            return 0
        if _is_earlier(anchor, time):
            return anchor.sequence_number
        return min(anchor.sequence_number, await in_thread(self._reader.days.last_before, time, is_left=True))

    async def find(self, wanted: EventFilter, limit: int) -> Sequence[AuditEvent | DamagedRecord]:
        """Do as `AuditStorage.find`, in the trail and then in the archive."""
        return (await self.page_from(None, wanted, limit)).items

    async def read(self, after: int, limit: int) -> Sequence[AuditEvent | DamagedRecord]:
        """Do as `AuditStorage.read`, in the archive and then in the trail."""
        wanted = EventFilter().numbered(after=after, before=None)
        return (await self.page_from(None, wanted, limit, oldest_first=True)).items

    async def page_from(
        self, place: Place | None, wanted: EventFilter, limit: int, *, oldest_first: bool = False
    ) -> Page:
        """Do as `FileStorage.page_from`, in the trail and in the archive."""
        while True:
            anchor = await in_thread(self._anchor)
            if anchor is None:
                page = await self._storage.page_from(place, wanted, limit, oldest_first=oldest_first)
            elif oldest_first:
                page = await self._oldest(place, wanted, limit, anchor)
            else:
                page = await self._newest(place, wanted, limit, anchor)
            if await in_thread(self._anchor) == anchor:
                return page
            # Days were removed meanwhile.

    async def _newest(self, place: Place | None, wanted: EventFilter, limit: int, anchor: Anchor) -> Page:
        is_removed = place is not None and place.file <= anchor.file
        found: list[AuditEvent | DamagedRecord] = []
        if not is_removed:
            found, place = await self._storage.page_from(place, wanted, limit)
        lacking = limit - sum(isinstance(item, AuditEvent) for item in found)
        if (place is None or is_removed) and lacking > 0 and _reaches_back(wanted, anchor):
            removed = await in_thread(self._find_removed, place, wanted, lacking, anchor, is_left=True)
            return Page([*found, *removed.items], removed.place)
        return Page(found, place)

    async def _oldest(self, place: Place | None, wanted: EventFilter, limit: int, anchor: Anchor) -> Page:
        found: list[AuditEvent | DamagedRecord] = []
        if (wanted.after or 0) < anchor.sequence_number and (place is None or place.file <= anchor.file):
            found, place = await in_thread(self._read_removed, place, wanted, limit, anchor, is_left=True)
            if place is not None:
                return Page(found, place)
        lacking = limit - sum(isinstance(item, AuditEvent) for item in found)
        if lacking < 1 or (wanted.before is not None and wanted.before <= anchor.sequence_number + 1):
            return Page(found, place)
        after = max(wanted.after or 0, anchor.sequence_number)
        kept = wanted.numbered(after=after, before=wanted.before)
        page = await self._storage.page_from(place, kept, lacking, oldest_first=True)
        return Page([*found, *page.items], page.place)

    def _find_removed(self, place: Place | None, wanted: EventFilter, limit: int, anchor: Anchor) -> Page:
        last = anchor.sequence_number
        before = last + 1 if wanted.before is None else min(wanted.before, last + 1)
        found, behind = self._reader.page(wanted.numbered(after=wanted.after, before=before), limit, place)
        if place is None and before > last:
            found = [*self._lacking_end(anchor), *found]
        if behind is None and (lacking := self._lacking_beginning(wanted.after or 0, wanted.start_time)):
            found = [*(item for item in found if not _is_at(item, lacking[0])), *lacking]
        return Page(found, behind)

    def _read_removed(self, place: Place | None, wanted: EventFilter, limit: int, anchor: Anchor) -> Page:
        last = anchor.sequence_number
        before = last + 1 if wanted.before is None else min(wanted.before, last + 1)
        found, behind = self._reader.oldest_page(wanted.numbered(after=wanted.after, before=before), limit, place)
        if place is None and (lacking := self._lacking_beginning(wanted.after or 0)):
            found = [*lacking, *(item for item in found if not _is_at(item, lacking[0]))]
        if behind is None and before > last:
            found = [*found, *self._lacking_end(anchor)]
        return Page(found, behind)

    def _lacking_end(self, anchor: Anchor) -> list[DamagedRecord]:
        """Return the hole between the end of the archive and the trail, if there is one."""
        if anchor.file in self._reader.days.names():
            return []
        words = f"records up to {anchor.sequence_number} were removed, and the last of them are not in {self._archive}"
        return [DamagedRecord(file=anchor.file, offset=0, size=0, problem=words)]

    def _lacking_beginning(self, after: int, time: datetime | None = None) -> list[DamagedRecord]:
        """Return the hole in front of the archive, if there may be one behind record *after* and from *time* on."""
        days = self._reader.days.names()
        first = self._reader.days.first_number(days)
        if first is None or first <= after + 1 or (time is not None and self._reader.days.earlier(days, time)):
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


def _is_at(item: AuditEvent | DamagedRecord, hole: DamagedRecord) -> bool:
    """Return whether *item* is a hole in the place of another one, where records are missing."""
    return isinstance(item, DamagedRecord) and (item.file, item.offset, item.size) == (hole.file, hole.offset, 0)


def _reaches_back(wanted: EventFilter, anchor: Anchor) -> bool:
    """Return whether records that were removed may be wanted."""
    is_later = wanted.start_time is not None and _is_earlier(anchor, wanted.start_time)
    return (wanted.after or 0) < anchor.sequence_number and not is_later


def _is_earlier(anchor: Anchor, time: datetime) -> bool:
    """Return whether all records that were removed are known to be earlier than *time*."""
    return anchor.latest is not None and anchor.latest < to_the_second(time)
