"""Reading, writing, syncing and closing open files, which blocks."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Generator, Iterator
from typing import Final

__all__ = ["blocks", "close", "closing", "sync", "write_all", "write_until_error"]

# Of one read.
_BLOCK_BYTES: Final = 1 << 20


def blocks(fd: int, offset: int = 0) -> Iterator[bytes]:
    """Yield all that the open file *fd* has from *offset* on."""
    while block := os.pread(fd, _BLOCK_BYTES, offset):
        yield block
        offset += len(block)


def sync(fd: int) -> None:
    """Return when the data of a file, and its size, are on the disk."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        # On macOS fsync leaves the data in the drive's cache: "man 2 fsync".
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write *data*, in several writes if need be."""
    _, error = write_until_error(fd, data)
    if error is not None:
        raise error


def write_until_error(fd: int, data: bytes) -> tuple[int, OSError | None]:
    """Write *data*, in several writes if need be; return how much was written, and the error that stopped the rest."""
    written = 0
    try:
        written = os.write(fd, data)
        while written < len(data):
            written += os.write(fd, data[written:])
    except OSError as error:
        return written, error
    return written, None


def close(fd: int) -> None:
    """Close *fd*. An error says nothing of synced data, and the descriptor is free all the same: "man 2 close"."""
    try:  # noqa: SIM105 - less than half as long as `suppress`
        os.close(fd)
    except OSError:
        pass


@contextlib.contextmanager
def closing(fd: int) -> Generator[int, None, None]:
    """Close *fd* on leaving."""
    try:
        yield fd
    finally:
        close(fd)
