"""The directory of a trail, and its files by their names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

from .._regular import open_regular
from .access import OWNER, Access
from .descriptors import closing
from .names import SUFFIX, is_name

__all__ = [
    "identity",
    "is_named",
    "make_directory",
    "newest_file",
    "open_file",
    "open_to_append",
    "reading",
    "size_of",
    "sync_directory",
]


def identity(directory: str) -> tuple[int, int, int]:
    """Return a value that changes when a file is made or removed, or *directory*, or one above it, is moved."""
    found = os.stat(directory)
    return found.st_dev, found.st_ino, found.st_ctime_ns


def is_named(path: str, fd: int) -> bool:
    """Return whether *path* leads to the file that *fd* is of."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except OSError:
        return False


def open_file(directory: Path, name: str, flags: int = os.O_RDONLY) -> int:
    """
    Open the file *name* without waiting, even if it is a pipe; to read, also one that is compressed.

    Raises:
        ChainError: It is compressed, and damaged.
        OSError: It is no regular file, or can't be opened.
    """
    try:
        return open_regular(f"{directory}/{name}", flags)
    except FileNotFoundError:
        path = f"{directory}/{name}{SUFFIX}"
        if flags != os.O_RDONLY or not is_name(name) or not os.path.isfile(path):
            raise
    # Few trails have days that are compressed, and gzip loads much.
    from .compressed import decompressed  # noqa: PLC0415

    return decompressed(path)


def open_to_append(directory: Path, name: str) -> tuple[int, bool]:
    """Open the file *name*, and return whether more can be appended to it; raise as `open_file`."""
    try:
        return open_file(directory, name, os.O_RDWR | os.O_APPEND), True
    except FileNotFoundError:
        # It is compressed.
        return open_file(directory, name), False


def size_of(directory: Path, name: str) -> int:
    """
    Return the size of the file *name*; of a compressed one, the former size.

    Raises:
        OSError: It can't be read.
    """
    path = f"{directory}/{name}"
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        from .compressed import size_when_decompressed  # noqa: PLC0415

        return size_when_decompressed(path + SUFFIX)


def reading(directory: Path, name: str) -> contextlib.AbstractContextManager[int]:
    """Open the file *name* for reading, and close it on leaving."""
    return closing(open_file(directory, name))


@contextlib.contextmanager
def newest_file(directory: Path) -> Generator[int | None]:
    """Open the newest file of a trail, whose owner, group and mode the files beside it get; None if there is none."""
    newest = max(filter(is_name, os.listdir(directory)), default=None)
    with contextlib.nullcontext() if newest is None else reading(directory, newest) as fd:
        yield fd


def make_directory(directory: Path, access: Access = OWNER) -> None:
    """Make *directory* and the missing ones above it, so that they survive a power cut."""
    if directory.is_dir():
        return
    make_directory(directory.parent, access)
    is_made = True
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        if not directory.is_dir():  # else another process was faster
            raise
        is_made = False
    try:
        if is_made and access != OWNER:
            with closing(os.open(directory, os.O_RDONLY | os.O_DIRECTORY)) as fd:
                access.give(fd)
        sync_directory(directory.parent)
    except OSError:
        # Else the next attempt would take it for one that survives.
        with contextlib.suppress(OSError):
            os.rmdir(directory)
        raise


def sync_directory(directory: Path) -> None:
    """Make files that were created in *directory*, or renamed there, survive a power cut."""
    with closing(os.open(directory, os.O_RDONLY | os.O_DIRECTORY)) as fd:
        os.fsync(fd)
