"""The directory of a trail: the names of its files, the lock on it, and descriptors that block."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Generator
from datetime import date
from pathlib import Path
from typing import Final

from ..record.errors import AuditStorageError

__all__ = [
    "cannot",
    "closing",
    "file_of_day",
    "files_set_aside",
    "identity",
    "locked",
    "make_directory",
    "names",
    "reading",
    "sync",
    "sync_directory",
    "without_writers",
    "write_all",
]

_NAME: Final = re.compile(r"audit_\d{4}-\d\d-\d\d\.jsonl")
_SET_ASIDE: Final = re.compile(_NAME.pattern + r"\.torn-\d+-[0-9a-f]+")


def file_of_day(day: int) -> str:
    """Return the name of the file for *day*, a proleptic Gregorian ordinal."""
    return date.fromordinal(day).strftime("audit_%Y-%m-%d.jsonl")


def names(directory: Path) -> list[str]:
    """Return the names of the trail's files, the oldest first."""
    try:
        return sorted(filter(_NAME.fullmatch, os.listdir(directory)))
    except FileNotFoundError:
        return []


def files_set_aside(directory: Path) -> tuple[str, ...]:
    """Return the names of the files that hold incomplete records, sorted."""
    return tuple(sorted(filter(_SET_ASIDE.fullmatch, os.listdir(directory))))


def identity(directory: str) -> tuple[int, int, int]:
    """Return a value that changes when a file is made or removed, or *directory*, or one above it, is moved."""
    found = os.stat(directory)
    return found.st_dev, found.st_ino, found.st_ctime_ns


def reading(directory: Path, name: str) -> contextlib.AbstractContextManager[int]:
    """Open the file *name* for reading, and close it on leaving."""
    return closing(os.open(directory / name, os.O_RDONLY))


@contextlib.contextmanager
def without_writers(directory: Path) -> Generator[None, None, None]:
    """Wait for the writers in all processes, and keep them waiting until left."""
    with closing(os.open(directory, os.O_RDONLY | os.O_DIRECTORY)) as fd, locked(fd, fcntl.LOCK_SH):
        yield


def make_directory(directory: Path) -> None:
    """Make *directory*, mode 0700, and the missing ones above it, so that they survive a power cut."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        if not directory.is_dir():  # else another process was faster
            raise
    sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Make files that were created in *directory*, or renamed there, survive a power cut."""
    with closing(os.open(directory, os.O_RDONLY | os.O_DIRECTORY)) as fd:
        os.fsync(fd)


def sync(fd: int) -> None:
    """Return when the data of a file, and its size, are on the disk."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        # On macOS fsync leaves the data in the drive's cache: "man 2 fsync".
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write *data*, in several writes if need be."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


@contextlib.contextmanager
def locked(fd: int, how: int) -> Generator[None, None, None]:
    """Hold the lock of an open directory, shared or exclusive, until left."""
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


@contextlib.contextmanager
def closing(fd: int) -> Generator[int, None, None]:
    """Close *fd* on leaving."""
    try:
        yield fd
    finally:
        os.close(fd)


def cannot(action: str, directory: Path, error: OSError) -> AuditStorageError:
    """Return the error that says that *action* failed in *directory*, and why."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return AuditStorageError(f"cannot {action} {directory}: expected a directory, found something else")
    return AuditStorageError(f"cannot {action} {directory}: {error.strerror or error}")
