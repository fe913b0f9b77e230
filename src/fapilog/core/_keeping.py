"""
Where a trail keeps its records, and what belongs to that place.

Half of the library is for files, so that it is loaded when a trail is made in files; a process whose trails are
elsewhere never loads it. That is the reason for the imports inside of functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ..record.options import require_path
from ..record.values import kind_of
from ..storage.protocol import AuditStorage, require_storage

if TYPE_CHECKING:
    from pathlib import Path

    from ..storage.archive import Archive
    from ..storage.files import FileStorage
    from ..storage.replication import Replication
    from ._incidentfiles import IncidentFiles

__all__ = ["Keeping", "archive_of", "files_of", "in_files", "is_ours", "plain_files_of"]


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


def archive_of(storage: AuditStorage, given: Archive | Path | str) -> Archive:
    """Return the archive that *given* names for the trail in *storage*; raise as `require_archive`, or ValueError."""
    from ..storage.archive import DirectoryArchive, require_archive  # noqa: PLC0415

    archive = require_archive("archive", given)
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
