"""
Where a trail keeps its records, and what belongs to that place.

Half of the library is for files, so that it is loaded when a trail is made in files; a process whose trails are
elsewhere never loads it. That is the reason for the imports inside of functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ..record.chain import EMPTY, ChainHead
from ..record.errors import AuditStorageError
from ..record.options import require_bool, require_kind, require_path
from ..record.values import kind_of
from ..storage.protocol import AuditStorage, EventFilter, holds, require_storage

if TYPE_CHECKING:
    from pathlib import Path

    from ..storage.archive import Archive
    from ..storage.files import FileStorage
    from ..storage.replication import Replication
    from ._incidentfiles import IncidentFiles

__all__ = ["Expected", "Keeping", "archive_of", "files_of", "in_files", "is_ours", "plain_files_of", "words_for"]


class Keeping:
    """
    The storage of a trail, with its archive and its replica, from the options of `AuditTrail`, which explains them.

    Raises:
        ImportError: The library of the *archive* is missing.
        TypeError: An option is not of its type, or a trail that is not in files has an *archive* or a *replica*.
        ValueError: An option is out of range, both *storage* and *storage_path* are given, or an option would have no
            effect: *durability* with a *storage*, or *lag_limit* without a *replica*.

    Attributes:
        storage: Keeps the events.
        path: The directory of the trail; None with a storage other than files.
        incident_files: Keep open incidents for the next process; None if no file does.
        archive: Keeps the days that retention archives; None without one.
        asked: Answers questions: the storage, with its archive.
        replication: Copies the records into the replica; None without one.
    """

    def __init__(
        self,
        storage: AuditStorage | None,
        storage_path: Path | str | None,
        *,
        durability: Literal["fsync", "write"],
        archive: Archive | Path | str | None,
        replica: AuditStorage | None,
        lag_limit: float | None,
    ) -> None:
        if storage is not None and storage_path is not None:
            raise ValueError("storage: expected a storage or a path; got both")
        if storage is not None and durability != "fsync":
            raise ValueError("durability: expected it without storage, which has its own; got both")
        if lag_limit is not None and replica is None:
            raise ValueError("lag_limit: expected a replica too; got none")
        self.path: Path | None = None
        if storage is None:
            from ..storage.files import FileStorage  # noqa: PLC0415

            self.path = require_path("storage_path", "audit_logs" if storage_path is None else storage_path)
            storage = FileStorage(self.path, durability=durability)
        self.storage: AuditStorage = require_storage("storage", storage)
        self.incident_files: IncidentFiles | None = None
        if (files := files_of(storage)) is not None:
            from ._incidentfiles import IncidentFiles  # noqa: PLC0415

            self.path = self.path or files.directory
            self.incident_files = IncidentFiles(self.path, files.access)
        self.archive: Archive | None = None
        self.asked: AuditStorage = storage
        if archive is not None:
            from ..storage.archived import WithArchive  # noqa: PLC0415

            self.archive = archive_of(storage, archive)
            self.asked = WithArchive(in_files("archive", storage), self.archive)
        self.replication: Replication | None = None
        if replica is not None:
            from ..storage.replication import Replication  # noqa: PLC0415

            directory = in_files("replica", storage).directory
            options: dict[str, Any] = {} if lag_limit is None else {"lag_limit": lag_limit}
            self.replication = Replication(directory, require_storage("replica", replica), **options)


class Expected:
    """
    The trail that has to be in the storage already, if one has to: nothing is stored before it was found there.

    Args:
        storage: The storage of the trail.
        must_exist: Whether the trail must have a record.
        head: The head that it must hold; None if it need not.

    Raises:
        TypeError: *must_exist* is neither True nor False, or *head* is no head.

    Attributes:
        is_there: Whether it was found, or none is expected.
    """

    def __init__(self, storage: AuditStorage, *, must_exist: bool, head: ChainHead | None) -> None:
        self._storage = storage
        self._must_exist = require_bool("must_exist", must_exist)
        self._head = EMPTY if head is None else require_kind("expected_head", head, ChainHead)
        self.is_there: bool
        self.doubt()

    def doubt(self) -> None:
        """Look for it anew, since the storage was closed."""
        self.is_there = not self._must_exist and self._head == EMPTY

    async def find(self) -> None:
        """
        Look for it, unless it was found.

        Raises:
            AuditStorageError: It is not there, or can't be read.
        """
        if self.is_there:
            return
        if self._must_exist and not await self._storage.find(EventFilter(), 1):
            raise AuditStorageError(
                f"{words_for(self._storage)}: expected a trail, as must_exist says, and found no record; is its volume "
                "mounted? Nothing is stored"
            )
        if not await holds(self._storage, self._head):
            raise AuditStorageError(
                f"{words_for(self._storage)}: expected the trail with record {self._head.sequence_number}, as "
                "expected_head has it, and found no such record: was the trail cut, replaced, or restored from an "
                "older backup, or has retention removed that record? Nothing is stored"
            )
        self.is_there = True


def words_for(storage: AuditStorage) -> str:
    """Return the words for *storage* in a message. The repr of a storage that is not ours may have a password."""
    return repr(storage) if is_ours(storage) else type(storage).__qualname__


def archive_of(storage: AuditStorage, given: Archive | Path | str) -> Archive:
    """Return the archive that *given* names for the trail in *storage*; raise as `require_archive`, or ValueError."""
    from ..storage._archive.addresses import require_archive  # noqa: PLC0415
    from ..storage.archive import DirectoryArchive  # noqa: PLC0415

    archive = require_archive(given)
    files = in_files("archive", storage)
    if isinstance(archive, DirectoryArchive) and archive.directory.resolve() == files.directory.resolve():
        raise ValueError("archive: expected another directory than that of the trail")
    return archive


def files_of(storage: AuditStorage) -> FileStorage | None:
    """Return *storage* if it keeps a trail in files; None if not."""
    if not hasattr(type(storage), "append_record"):
        return None
    from ..storage.files import FileStorage  # noqa: PLC0415

    return storage if isinstance(storage, FileStorage) else None


def plain_files_of(storage: AuditStorage) -> FileStorage | None:
    """Return *storage* if it is in files, and of no subclass whose `append` may do more; None if not."""
    files = files_of(storage)
    if files is None:
        return None
    from ..storage.files import FileStorage  # noqa: PLC0415

    return files if type(files).append is FileStorage.append else None


def is_ours(storage: AuditStorage) -> bool:
    """Return whether *storage* is of this package: it raises `AuditStorageError` where it fails, and nothing else."""
    return type(storage).__module__.startswith("fapilog.storage.")


def in_files(name: str, storage: AuditStorage) -> FileStorage:
    """Return *storage* if it keeps a trail in files; raise TypeError, whose message begins with *name*, if not."""
    files = files_of(storage)
    if files is None:
        raise TypeError(f"{name}: expected a trail in files; got {kind_of(storage)}")
    return files
