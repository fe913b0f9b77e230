"""Compressing, archiving and removing the file of one day that is over. All of it blocks."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Generator, Iterable, Sequence
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from ...record.errors import AuditStorageError
from .._anchor import ANCHOR, Anchor, anchor_of
from .._files.access import allow_as
from .._files.compressed import compress, content_of
from .._files.descriptors import blocks, closing, sync
from .._files.directory import newest_file, reading, sync_directory
from .._files.locking import locked
from .._files.names import SUFFIX, date_of, day_of, names
from .._files.times import INDEX, Times
from .._regular import open_regular
from .._whole import PART, remove, whole
from ..archive import Archive, PackedFile, from_disk, is_archived_name, not_what_the_trail_has
from .latest import latest_up_to

__all__ = [
    "BusyError",
    "archive_day",
    "begin_archive",
    "compress_day",
    "digest",
    "exclusive",
    "remove_days",
    "sweep",
    "tidy",
    "write_anchor",
]

_LOCK: Final = "audit_retention.lock"


class BusyError(AuditStorageError):
    """Raised when another process applies retention, or changes holds."""


def digest(fd: int) -> str:
    """Return the SHA-256 of all that the open file *fd* has."""
    found = sha256()
    for block in blocks(fd):
        found.update(block)
    return found.hexdigest()


def compress_day(directory: Path, name: str, files: Sequence[str] | None = None) -> None:
    """
    Compress a file in its place, if it is not yet.

    The compressed file is on the disk, and was read back, before the plain one is deleted.

    Args:
        directory: The directory of the trail.
        name: The name of the file.
        files: The files of the trail, as `names` returns them; None to list them.

    Raises:
        AuditStorageError: The compressed file reads back differently.
        OSError: The file can't be compressed; it is as it was.
    """
    path = f"{directory}/{name}"
    if not os.path.exists(path):
        return
    with reading(directory, name) as fd:
        wanted = digest(fd)
        with whole(path + SUFFIX, like=fd) as part:
            compress(blocks(fd), part, (latest_up_to(directory, name, files) or "").encode())
    with from_disk(Path(path + SUFFIX)) as file:
        if content_of(file) != wanted:
            raise AuditStorageError(f"{not_what_the_trail_has(path + SUFFIX)}; nothing is deleted")
    os.unlink(path)
    sync_directory(directory)


def begin_archive(directory: Path, archive: Archive, day: date, retention_days: int | None) -> None:
    """
    Have an empty *archive*, of which *day* is to be the first, begin where the trail does now; raise as `archive_day`.

    Apart from `archive_day`, since it takes a list of all that the archive has.
    """
    if os.path.exists(f"{directory}/{ANCHOR}") and not archive.sizes():
        _put(Path(f"{directory}/{ANCHOR}"), None, archive, day, retention_days)


def archive_day(
    directory: Path, name: str, archive: Archive, retention_days: int | None, set_aside: Iterable[str] = ()
) -> None:
    """
    Copy a compressed file to *archive*, if it is not there yet, and prove that it is there, whole.

    The files *set_aside*, with the incomplete records that crashes left on that day, come first: an archived day has
    its own with it.

    Raises:
        AuditStorageError: The archive has something else of that name, is away, or does not keep it for long enough.
        ChainError: The file is damaged.
        OSError: It can't be done.
    """
    day = date_of(name)
    for each in set_aside:
        _put(directory / each, None, archive, day, retention_days)
    with reading(directory, name) as fd:
        content = digest(fd)
    _put(Path(f"{directory}/{name}{SUFFIX}"), content, archive, day, retention_days)


def _put(path: Path, content: str | None, archive: Archive, day: date, retention_days: int | None) -> None:
    with closing(open_regular(path)) as fd:
        size, found = os.fstat(fd).st_size, digest(fd)
    file = PackedFile(path=path, size=size, sha256=found, content=content, day=day, retention_days=retention_days)
    try:
        archive.put(file)
        archive.prove(file)
    except AuditStorageError as error:
        raise AuditStorageError(f"{error}; nothing is deleted") from error


def remove_days(directory: Path, anchor: Anchor) -> None:
    """
    Remove the days up to the last that *anchor* names: write it, and delete their files, the oldest first.

    Called inside of `exclusive`.

    Raises:
        OSError: A file can't be deleted; the next `sweep` deletes the rest.
    """
    with locked(directory):
        # A trail may leave it to the operating system when its records come to the disk; the anchor names one of them.
        for name in names(directory)[-2:]:
            with reading(directory, name) as fd:
                sync(fd)
        write_anchor(directory, anchor)
    sweep(directory)
    tidy(directory)


@contextlib.contextmanager
def exclusive(directory: Path) -> Generator[None]:
    """
    Be the only process that applies retention or changes holds, until left.

    Raises:
        BusyError: Another one does.
        OSError: The lock can't be opened or taken.
    """
    path = directory / _LOCK
    # Not the lock on the directory, which writers need. Never deleted: another process may just have opened it.
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    with (
        contextlib.suppress(FileExistsError),
        newest_file(directory) as newest,
        closing(os.open(path, flags, 0o600)) as made,
    ):
        if newest is not None:
            allow_as(made, newest)
    with closing(os.open(path, os.O_RDWR)) as fd:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{directory}: another process applies retention to it; try again") from None
        try:
            yield
        finally:
            # Closing would do, but for a child that was forked meanwhile and has it open as well.
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)


def sweep(directory: Path) -> None:
    """Delete the files of removed days, and the unfinished parts that a crash has left; inside of `exclusive`."""
    anchor = anchor_of(directory)
    leftovers = [
        name
        for name in sorted(os.listdir(directory))
        if (name.endswith(PART) and is_archived_name(name.removesuffix(PART)))
        or (anchor is not None and (day := day_of(name)) is not None and day <= anchor.file)
    ]
    if leftovers:
        for name in leftovers:
            remove(f"{directory}/{name}")
        sync_directory(directory)


def tidy(directory: Path) -> None:
    """Remove the parts of deleted files from the index, which is written anew."""
    # Without the index, or with too much in it, every answer is the same.
    with contextlib.suppress(OSError), reading(directory, INDEX) as fd:
        there = set(os.listdir(directory))
        with whole(f"{directory}/{INDEX}", like=fd) as part:
            part.write(Times(directory).tidied(there))


def write_anchor(directory: Path, anchor: Anchor) -> None:
    """Replace the anchor of the trail in *directory*; raise OSError if it can't be written."""
    with newest_file(directory) as newest, whole(f"{directory}/{ANCHOR}", like=newest) as part:
        part.write(msgspec.json.encode(anchor) + b"\n")
