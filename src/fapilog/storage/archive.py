"""
Archives, which keep the days of a trail, compressed, after the trail itself has removed them.

An archive keeps files and does not look into them: the compressed days, the incomplete records that crashes left on
them, and the anchor of a trail that had removed days before its archive was begun. `DirectoryArchive` is one;
`fapilog.storage.s3.S3Archive` another.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import IO, Final, Protocol, runtime_checkable

import msgspec

from ..record.errors import AuditStorageError
from ..record.options import require_path
from ._anchor import ANCHOR
from ._files.access import cannot
from ._files.compressed import content_of
from ._files.directory import make_directory
from ._files.names import SUFFIX, is_name, is_set_aside
from ._regular import regular_file
from ._whole import whole

__all__ = [
    "Archive",
    "DirectoryArchive",
    "PackedFile",
    "from_disk",
    "is_archived_name",
    "not_what_the_trail_has",
]

_BLOCK_BYTES: Final = 1 << 20


class PackedFile(msgspec.Struct, frozen=True, kw_only=True):
    """
    A file that goes into an archive.

    Attributes:
        path: The file of the trail; its name is the name in the archive too.
        size: The size of the file in bytes.
        sha256: The SHA-256 of the file, in hexadecimal.
        content: The SHA-256 of the decompressed file; None if the file is not compressed.
        day: The day of the records in the file, in UTC.
        retention_days: The age in days up to which the policy keeps this day; None for ever.
    """

    path: Path
    size: int
    sha256: str
    content: str | None
    day: date
    retention_days: int | None

    def until(self, days: int) -> datetime:
        """Return the time *days* days after the end of the day."""
        return datetime.combine(self.day, time(), UTC) + timedelta(1 + days)

    def matches(self, opened: Callable[[], IO[bytes]]) -> bool:
        """Return whether the file that *opened* opens has the same bytes, compressed or decompressed."""
        with closing(opened()) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == self.sha256:  # type: ignore[arg-type]
                return True
        if self.content is None:
            return False
        # Another version of zlib compresses the same day to other bytes.
        with closing(opened()) as file:
            return content_of(file) == self.content


@runtime_checkable
class Archive(Protocol):
    """
    Keeps the files of days for a trail.

    All methods block, and are called in worker threads. They raise `AuditStorageError` if the archive can't be reached
    or refuses the call, and its message names the place and the reason. Neither the message nor ``str()`` of the
    archive, which is its address, has a secret.

    An archive over a network may have an attribute ``may_be_left = True``: then a caller that is cancelled does not
    wait for a call that is under way, which goes on in its thread, beside the next calls. Its methods must allow that.
    """

    def sizes(self) -> Mapping[str, int]:
        """Return the names of the files in the archive, with their sizes in bytes."""
        ...

    def put(self, file: PackedFile) -> None:
        """
        Store *file*, unless the archive has a file of this name, with any content.

        The archive has the whole file or none, whenever the process dies. Calling it again does no harm.
        """
        ...

    def prove(self, file: PackedFile) -> None:
        """
        Return if the archive, asked anew, has the bytes of *file* and keeps them for as long as it promises.

        Returning means that the trail may delete its own copy. Raises `AuditStorageError` if the file is not there, has
        other bytes, or may be deleted earlier.
        """
        ...

    def open(self, name: str, size: int | None = None) -> IO[bytes]:
        """
        Open the file *name* for reading and seeking; the caller closes it.

        With *size*, which is not above the size of the file, the caller reads the first *size* bytes alone. Raises
        `AuditStorageError` if the file is not there or can't be read.
        """
        ...


class DirectoryArchive:
    """
    An archive in a directory, which is a trail by itself: `fapilog verify` and every reader work on it.

    Args:
        directory: The directory; made (mode 0700) with the first file. ``~`` is the home directory.

    Attributes:
        directory: The directory of the files; absolute.

    Raises:
        TypeError: *directory* is no path.
        ValueError: *directory* is a text that none can be called.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory: Path = require_path("directory", directory).absolute()

    def __str__(self) -> str:
        return str(self.directory)

    def __repr__(self) -> str:
        return f"<DirectoryArchive {str(self.directory)!r}>"

    def sizes(self) -> Mapping[str, int]:
        """Do as `Archive.sizes`; a directory that is not there is an empty archive."""
        with self._failures("read"):
            try:
                entries = os.scandir(self.directory)
            except FileNotFoundError:
                if self.directory.is_symlink():  # to a volume that is not mounted, say
                    raise
                return {}
            with entries:
                return {entry.name: entry.stat().st_size for entry in entries if is_archived_name(entry.name)}

    def put(self, file: PackedFile) -> None:
        """Do as `Archive.put`."""
        with self._failures("archive in"):
            make_directory(self.directory)
            there = self.directory / file.path.name
            if not there.exists():
                from shutil import copyfileobj  # noqa: PLC0415  it loads every kind of compression

                with regular_file(file.path) as source, whole(str(there), like=source.fileno()) as part:
                    copyfileobj(source, part, _BLOCK_BYTES)

    def prove(self, file: PackedFile) -> None:
        """Do as `Archive.prove`: read the whole file back, from the disk where the system allows that."""
        there = self.directory / file.path.name
        with self._failures("read"):
            if not file.matches(lambda: from_disk(there)):
                raise not_what_the_trail_has(there)

    def open(self, name: str, size: int | None = None) -> IO[bytes]:  # noqa: ARG002  all of it is as fast
        """Do as `Archive.open`."""
        with self._failures("read"):
            return regular_file(self.directory / name)

    @contextlib.contextmanager
    def _failures(self, action: str) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise cannot(action, self.directory, error) from error


def from_disk(path: Path) -> IO[bytes]:
    """Open a file so that it is read from the disk, if the system can do that, and not from the cache."""
    file = regular_file(path)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return file


def not_what_the_trail_has(place: object) -> AuditStorageError:
    """Return the error that says that a file in an archive, or a compressed one, has other bytes than the trail."""
    return AuditStorageError(f"{place}: read back, it differs from the trail")


def is_archived_name(name: str) -> bool:
    """Return whether a file of that name belongs to an archive."""
    is_day = name.endswith(SUFFIX) and is_name(name.removesuffix(SUFFIX))
    return is_day or is_set_aside(name) or name == ANCHOR
