"""
The files of days that are compressed: gzip, so that `zcat` and `zgrep` show them.

What reads a trail goes back and forth in a file, which a compressed one does not allow. So it is decompressed into a
file without a name, which is gone with its last descriptor; and of a file that is read page by page, only once.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import tempfile
import zlib
from collections.abc import Generator
from hashlib import sha256
from typing import IO, Final

from ..record.chain import ChainError, ChainStatus

__all__ = ["MAX_SIZE", "SUFFIX", "beginning", "content_of", "decompressed", "size_when_decompressed"]

SUFFIX: Final = ".gz"
MAX_SIZE: Final = (1 << 32) - 1
"""The largest file that is compressed: the size is stored in four bytes. https://www.rfc-editor.org/rfc/rfc1952"""

_BLOCK_BYTES: Final = 1 << 20


class _Nameless:
    """A descriptor that is closed when nobody has it any more."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)


# The newest one, and which file it is of. Replaced as a whole; who still reads an older one keeps that alive.
_latest: list[tuple[tuple[int, ...], _Nameless]] = []


def decompressed(path: str) -> int:
    """
    Return an open file with what the compressed file *path* has.

    Raises:
        ChainError: The file is damaged.
        OSError: It can't be read, or there is no room for what it has.
    """
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        key = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
        latest = _latest[:1]
        if latest and latest[0][0] == key:
            return os.dup(latest[0][1].fd)
        with tempfile.TemporaryFile(buffering=0) as plain:
            left = size_when_decompressed(path)
            with _damage(path), gzip.GzipFile(fileobj=file) as packed:
                while block := packed.read(_BLOCK_BYTES):
                    left -= len(block)
                    if left < 0:
                        raise gzip.BadGzipFile
                    view = memoryview(block)
                    while view:
                        view = view[plain.write(view) :]
                if left:
                    raise gzip.BadGzipFile
            nameless = _Nameless(os.dup(plain.fileno()))
    _latest[:] = [(key, nameless)]
    return os.dup(nameless.fd)


def beginning(path: str, size: int) -> bytes:
    """
    Return the first *size* bytes of what the compressed file *path* has.

    Raises:
        ChainError: The file is damaged.
        OSError: It can't be read.
    """
    with open(path, "rb") as file, _damage(path), gzip.GzipFile(fileobj=file) as packed:
        return packed.read(size)


def content_of(file: IO[bytes]) -> str | None:
    """Return the SHA-256 of the decompressed bytes of *file*, in hexadecimal; None if it is damaged."""
    found = sha256()
    try:
        with gzip.GzipFile(fileobj=file) as packed:
            while block := packed.read(_BLOCK_BYTES):
                found.update(block)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return None
    return found.hexdigest()


def size_when_decompressed(path: str) -> int:
    """
    Return the size that the compressed file *path* says it had.

    Raises:
        OSError: It can't be read.
    """
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4))
        return int.from_bytes(file.read(4), "little")


@contextlib.contextmanager
def _damage(path: str) -> Generator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error):
        message = f"{os.path.basename(path)} is damaged: it can't be decompressed"
        raise ChainError(ChainStatus.UNREADABLE, message) from None
