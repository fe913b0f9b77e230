"""What is done to the file of one day that is over: compressed, copied to an archive, removed. All of it blocks."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
from collections.abc import Generator, Iterator
from hashlib import sha256
from pathlib import Path
from typing import IO, Final

import msgspec

from ..record.chain import ChainError
from ..record.errors import AuditStorageError
from ._anchor import ANCHOR, Anchor, anchor_of
from ._compressed import SUFFIX
from ._directory import allow_as, close, day_of, make_directory, names, reading, sync, sync_directory, without_writers
from ._times import INDEX, Times

__all__ = ["alone", "archive_day", "compress_day", "digest", "is_archived", "remove_days", "sweep", "whole"]

_BLOCK_BYTES: Final = 1 << 20
_LOCK: Final = "audit_retention.lock"
_PART: Final = ".part"


def digest(fd: int) -> str:
    """Return the SHA-256 of all that the open file *fd* has."""
    found, offset = sha256(), 0
    while block := os.pread(fd, _BLOCK_BYTES, offset):
        found.update(block)
        offset += len(block)
    return found.hexdigest()


def compress_day(directory: Path, name: str) -> None:
    """
    Compress a file in its place, if it is not yet.

    The compressed one is on the disk, and was read back, before the other is deleted.

    Raises:
        AuditStorageError: What was read back is something else.
        OSError: It can't be done; the file is as it was.
    """
    path = f"{directory}/{name}"
    if not os.path.exists(path):
        return
    with reading(directory, name) as fd:
        wanted = digest(fd)
        with whole(path + SUFFIX, like=fd) as part, gzip.GzipFile("", "wb", 6, part, mtime=0) as packed:
            offset = 0
            while block := os.pread(fd, _BLOCK_BYTES, offset):
                packed.write(block)
                offset += len(block)
    _prove(path + SUFFIX, wanted)
    os.unlink(path)
    sync_directory(directory)
    _tidy(directory)


def archive_day(directory: Path, name: str, archive: Path) -> None:
    """
    Copy a compressed file to the directory *archive*, if it is not there yet, and prove that it is there, whole.

    Raises:
        AuditStorageError: The archive has something else of that name, or what was read back is something else.
        OSError: It can't be done.
    """
    make_directory(archive)
    anchor = anchor_of(directory)
    if anchor is not None and not names(archive):
        # The archive begins where the trail does now.
        _write_anchor(archive, anchor)
    path, there = f"{directory}/{name}{SUFFIX}", f"{archive}/{name}{SUFFIX}"
    with reading(directory, name) as fd:
        wanted = digest(fd)
    if not os.path.exists(there):
        with open(path, "rb") as file, whole(there, like=file.fileno()) as part:
            while block := file.read(_BLOCK_BYTES):
                part.write(block)
    _prove(there, wanted)


def is_archived(directory: Path, name: str, archive: Path) -> bool:
    """Return whether a compressed file looks as if it were in the archive; only `archive_day` proves that."""
    try:
        sizes = [os.stat(f"{place}/{name}{SUFFIX}").st_size for place in (directory, archive)]
    except FileNotFoundError:
        return False
    return sizes[0] == sizes[1]


def remove_days(directory: Path, names_of_days: list[str], anchor: Anchor) -> None:
    """
    Remove days: write the anchor that says so, and delete their files, the oldest first.

    Raises:
        OSError: It can't be done; what is left is deleted by the next `sweep`.
    """
    with without_writers(directory):
        # A trail may leave it to the operating system when its records come to the disk; the anchor names one of them.
        for name in names(directory)[-2:]:
            with reading(directory, name) as fd:
                sync(fd)
        _write_anchor(directory, anchor)
    _delete(directory, names_of_days)


def alone(directory: Path) -> int:
    """
    Be the only one, of all processes, that applies retention or changes holds, until what is returned is closed.

    Raises:
        AuditStorageError: Another one does.
        OSError: That can't be told.
    """
    # Not the lock on the directory, which writers need. Never deleted: another process may just have opened it.
    fd = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        close(fd)
        if isinstance(error, BlockingIOError):
            raise AuditStorageError(f"{directory}: another process applies retention to it; try again") from None
        raise
    return fd


def sweep(directory: Path) -> None:
    """Delete what a crash of retention has left, `alone`: files that are removed, and parts of others."""
    anchor = anchor_of(directory)
    leftovers = [
        name
        for name in sorted(os.listdir(directory))
        if (name.startswith("audit_") and name.endswith(_PART))
        or (anchor is not None and (day := day_of(name)) is not None and day <= anchor.file)
    ]
    if leftovers:
        for name in leftovers:
            _unlink(f"{directory}/{name}")
        sync_directory(directory)


def _delete(directory: Path, names_of_days: list[str]) -> None:
    there = os.listdir(directory)
    for day in names_of_days:
        # The compressed one, and the incomplete records that crashes left on that day.
        for name in sorted(each for each in there if each.startswith(day)):
            _unlink(f"{directory}/{name}")
    sync_directory(directory)
    _tidy(directory)


def _tidy(directory: Path) -> None:
    """Leave out of the index what it has of files that are gone."""
    # Without the index, or with too much in it, every answer is the same.
    with contextlib.suppress(OSError), reading(directory, INDEX) as fd:
        there = set(os.listdir(directory))
        with whole(f"{directory}/{INDEX}", like=fd) as part:
            part.write(Times(directory).tidied(there))


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _write_anchor(directory: Path, anchor: Anchor) -> None:
    newest = names(directory)[-1:]
    like = reading(directory, newest[0]) if newest else contextlib.nullcontext(None)
    with like as fd, whole(f"{directory}/{ANCHOR}", like=fd) as part:
        part.write(msgspec.json.encode(anchor) + b"\n")


@contextlib.contextmanager
def whole(path: str, like: int | None = None) -> Generator[IO[bytes]]:
    """Make a file that is there when it is whole and on the disk, for those who may read the open file *like*."""
    part = path + _PART
    _unlink(part)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        if like is not None:
            allow_as(fd, like)
        yield file
        file.flush()
        os.fsync(fd)
    os.rename(part, path)
    sync_directory(Path(path).parent)


def _prove(path: str, wanted: str) -> None:
    """Read a compressed file back, and raise AuditStorageError unless it has what *wanted* is the SHA-256 of."""
    found = sha256()
    try:
        with open(path, "rb") as file:
            if hasattr(os, "posix_fadvise"):
                # From the disk, where that can be had, and not what was just written.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            for block in _blocks(file):
                found.update(block)
    except (EOFError, gzip.BadGzipFile, ChainError):
        found = sha256(b"damaged")
    if found.hexdigest() != wanted:
        raise AuditStorageError(f"{path}: read back, it is not what the trail has; nothing is deleted")


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as packed:
        while block := packed.read(_BLOCK_BYTES):
            yield block
