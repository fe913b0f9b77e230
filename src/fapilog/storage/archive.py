"""
Archives: where the days of a trail are kept, compressed, when the trail itself need not have them any more.

An archive keeps files, and knows nothing of what is in them: a compressed day, and the anchor of a trail that had
removed days before its archive was begun. `DirectoryArchive` is one; `fapilog.storage.s3.S3Archive` another.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import IO, Any, Final, Protocol
from urllib.parse import parse_qsl, urlsplit

import msgspec

from ..record.options import require_path
from ._compressed import content_of
from ._directory import make_directory
from ._packed import from_disk, is_archived_name, not_what_the_trail_has
from ._whole import whole

__all__ = ["Archive", "DirectoryArchive", "PackedFile", "is_address", "require_archive"]

_BLOCK_BYTES: Final = 1 << 20
_ADDRESS: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# In an address, behind a question mark.
_S3_OPTIONS: Final = frozenset({"endpoint", "lock_days", "region"})


class PackedFile(msgspec.Struct, frozen=True, kw_only=True):
    """
    A file that goes into an archive.

    Attributes:
        path: Where it is; its last part is its name in the archive.
        size: In bytes.
        sha256: The SHA-256 of these bytes, in hexadecimal.
        content: The SHA-256 of the decompressed bytes; None if it is not compressed.
        day: The day that it is of, in UTC.
        retention_days: The age in days up to which the policy keeps that day; None for no such age.
    """

    path: Path
    size: int
    sha256: str
    content: str | None
    day: date
    retention_days: int | None

    def until(self, days: int) -> datetime:
        """Return when the day is over for *days* days."""
        return datetime.combine(self.day, time(), UTC) + timedelta(1 + days)

    def is_what(self, opened: Callable[[], IO[bytes]]) -> bool:
        """Return whether the file that *opened* opens has the same bytes, or the same when it is decompressed."""
        with closing(opened()) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == self.sha256:  # type: ignore[arg-type]
                return True
        if self.content is None:
            return False
        # It was compressed by another version of zlib, say.
        with closing(opened()) as file:
            return content_of(file) == self.content


class Archive(Protocol):
    """
    Keeps files for a trail, and gives them back.

    All methods block, and are called in a worker thread. `AuditStorageError` says that the archive is away, or refuses;
    its text has no secret. ``str()`` of an archive says where it is, also without one.
    """

    def sizes(self) -> Mapping[str, int]:
        """Return the names of the files that are there, and the size of each in bytes; none if there are none yet."""
        ...

    def put(self, file: PackedFile) -> None:
        """
        Keep *file*, unless one of that name is there, whatever it has.

        It is there whole or not at all, whenever the caller dies. Calling it again does no harm.
        """
        ...

    def prove(self, file: PackedFile) -> None:
        """
        Return if *file* is there, byte for byte, and is kept for as long as the archive promises; it is asked anew.

        What the trail has of it may be deleted then. Raises `AuditStorageError` if it is not there, has other bytes, or
        is not kept for so long.
        """
        ...

    def open(self, name: str, size: int | None = None) -> IO[bytes]:
        """
        Open the file *name* to read it, back and forth; what was opened is closed by the caller.

        With *size*, not above the size of the file, its first *size* bytes are enough. Raises `AuditStorageError` if it
        can't be read, or is not there.
        """
        ...


class DirectoryArchive:
    """
    An archive in a directory, which is a trail by itself: `fapilog verify` and every reader take it as it is.

    Args:
        directory: Where it is; made (mode 0700) with the first file. ``~`` is the home directory.

    Attributes:
        directory: As given; absolute.

    Raises:
        TypeError: *directory* is no path.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory: Path = require_path("archive", directory).absolute()

    def __str__(self) -> str:
        return str(self.directory)

    def __repr__(self) -> str:
        return f"<DirectoryArchive {str(self.directory)!r}>"

    def sizes(self) -> Mapping[str, int]:
        """Do as `Archive.sizes`; raise OSError if the directory can't be read."""
        try:
            with os.scandir(self.directory) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if is_archived_name(entry.name)}
        except FileNotFoundError:
            return {}

    def put(self, file: PackedFile) -> None:
        """Do as `Archive.put`; raise OSError if it can't be written."""
        make_directory(self.directory)
        there = self.directory / file.path.name
        if not there.exists():
            with file.path.open("rb") as source, whole(str(there), like=source.fileno()) as part:
                shutil.copyfileobj(source, part, _BLOCK_BYTES)

    def prove(self, file: PackedFile) -> None:
        """Do as `Archive.prove`; raise OSError if it can't be read."""
        there = self.directory / file.path.name
        if not file.is_what(lambda: from_disk(there)):
            raise not_what_the_trail_has(there)

    def open(self, name: str, size: int | None = None) -> IO[bytes]:  # noqa: ARG002  all of it is as fast
        """Do as `Archive.open`; raise OSError if it can't be read."""
        return (self.directory / name).open("rb")


def is_address(given: str) -> bool:
    """Return whether *given* is an address, and no path."""
    return _ADDRESS.match(given) is not None


def require_archive(name: str, given: Any) -> Archive:
    """
    Return the archive that *given* is, or names: a directory, or ``s3://bucket/prefix?lock_days=2190&region=eu-west-1``.

    Behind the question mark are options of `S3Archive`: *lock_days*, *region* and *endpoint*.

    Raises:
        ImportError: The library of the archive is missing; the message says how to get it.
        TypeError: It is neither a path nor an archive.
        ValueError: It is an address of something else, or with an option that is wrong.
    """
    if isinstance(given, str) and (scheme := _ADDRESS.match(given)):
        if scheme[1].lower() != "s3":
            raise ValueError(f"{name}: expected a directory or s3://bucket/prefix; got {scheme[0]}...")
        return _s3(name, given)
    if isinstance(given, str | os.PathLike):
        return DirectoryArchive(Path(given))
    lacking = [each for each in ("sizes", "put", "prove", "open") if not callable(getattr(given, each, None))]
    if lacking or isinstance(given, type):
        kind = given.__qualname__ if isinstance(given, type) else type(given).__qualname__
        raise TypeError(f"{name}: expected a directory, s3://bucket/prefix, or an Archive; got a {kind}")
    archive: Archive = given
    return archive


def _s3(name: str, address: str) -> Archive:
    try:
        from .s3 import S3Archive  # noqa: PLC0415  an extra of its own
    except ModuleNotFoundError as missing:
        from .._extras import how_to_get  # noqa: PLC0415

        raise ImportError(f"{name}: {how_to_get(missing, 's3')}", name=missing.name) from missing
    parts = urlsplit(address)
    options: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
    for unknown in options.keys() - _S3_OPTIONS:
        raise ValueError(f"{name}: there is no option {unknown[:100]!r}; there are {', '.join(sorted(_S3_OPTIONS))}")
    if "lock_days" in options:
        try:
            options["lock_days"] = int(options["lock_days"])
        except ValueError:
            raise ValueError(f"{name}: expected a whole number as lock_days; got something else") from None
    return S3Archive(parts.netloc, prefix=parts.path, **options)
