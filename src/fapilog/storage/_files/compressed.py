"""
The files of days that are compressed: gzip, so that `zcat` and `zgrep` show them.

Readers of a trail go back and forth in a file, which a compressed one does not allow. So it is decompressed into a file
without a name, which is gone with its last descriptor; and of a file that is read page by page, only once.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import struct
import zlib
from collections.abc import Callable, Generator, Iterable
from hashlib import sha256
from typing import IO, Final

from ...record.chain import ChainError, ChainStatus
from .._regular import regular_file

__all__ = [
    "MAX_SIZE",
    "LastUnpacked",
    "beginning",
    "compress",
    "content_of",
    "decompressed",
    "first_bytes",
    "note_in",
    "size_when_decompressed",
    "unpacked",
]

MAX_SIZE: Final = (1 << 32) - 1
"""The largest file that is compressed: the size is stored in four bytes. https://www.rfc-editor.org/rfc/rfc1952"""

_BLOCK_BYTES: Final = 1 << 20
# The beginning of a file with, or without, an extra field, of no time and no operating system; and the name of the
# field that is ours. https://www.rfc-editor.org/rfc/rfc1952#section-2.3
_HEADER: Final = b"\x1f\x8b\x08%c\x00\x00\x00\x00\x00\xff"
_WITH_EXTRA: Final = 4
_FIELD: Final = b"fa"
_CHECK_BYTES: Final = 4


class _Nameless:
    """A descriptor that is closed with its last reference."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)


class LastUnpacked:
    """Keeps the file that was decompressed last. Any thread may call it."""

    def __init__(self) -> None:
        # Replaced as a whole; a reader of an older one keeps that alive.
        self._kept: tuple[object, _Nameless] | None = None

    def opened(self, key: object, unpack: Callable[[], int]) -> int:
        """Return the open file that *unpack* returns, or has returned for an equal *key*; it is the caller's."""
        kept = self._kept
        if kept is None or kept[0] != key:
            kept = self._kept = key, _Nameless(unpack())
        return os.dup(kept[1].fd)


_last: Final = LastUnpacked()


def compress(blocks: Iterable[bytes], target: IO[bytes], note: bytes = b"") -> None:
    """Compress *blocks* into the file *target*, with a *note* in its header, where other programs pass over it."""
    field = _FIELD + struct.pack("<HL", _CHECK_BYTES + len(note), zlib.crc32(note)) + note
    target.write(_HEADER % _WITH_EXTRA + struct.pack("<H", len(field)) + field if note else _HEADER % 0)
    packing = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    check = size = 0
    for block in blocks:
        target.write(packing.compress(block))
        check, size = zlib.crc32(block, check), size + len(block)
    target.write(packing.flush() + struct.pack("<LL", check, size & MAX_SIZE))


def note_in(data: bytes) -> bytes:
    """Return the note in the header of a file that begins with *data*, as `compress` writes it; b"" if it has none."""
    header = _HEADER % _WITH_EXTRA
    field = data[len(header) + 2 :]
    if not data.startswith(header) or not field.startswith(_FIELD) or len(field) < len(_FIELD) + 2 + _CHECK_BYTES:
        return b""
    size, check = struct.unpack_from("<HL", field, len(_FIELD))
    note = field[len(_FIELD) + 2 + _CHECK_BYTES :][: size - _CHECK_BYTES]
    # The checksum of the file is of its content alone.
    return note if zlib.crc32(note) == check else b""


def decompressed(path: str) -> int:
    """
    Return an open file with the content of the compressed file *path*.

    Raises:
        ChainError: The file is damaged.
        OSError: It can't be read, or there is no room for its content.
    """
    with regular_file(path) as file:
        found = os.fstat(file.fileno())
        key = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
        return _last.opened(key, lambda: unpacked(file, path))


def unpacked(file: IO[bytes], path: str) -> int:
    """
    Return an open file, without a name, with the content of the compressed *file*, which is called *path*.

    Raises:
        ChainError: The file is damaged.
        OSError: It can't be read, or there is no room for its content.
    """
    import tempfile  # noqa: PLC0415  it loads much, for days that were compressed elsewhere

    with tempfile.TemporaryFile(buffering=0) as plain, _damage(path):
        if not file.seek(0, os.SEEK_END):
            # To the library this is a compressed file with nothing in it.
            raise gzip.BadGzipFile
        left = _size_at_end(file)
        file.seek(0)
        with gzip.GzipFile(fileobj=file) as packed:
            while block := packed.read(_BLOCK_BYTES):
                left -= len(block)
                if left < 0:
                    raise gzip.BadGzipFile
                view = memoryview(block)
                while view:
                    view = view[plain.write(view) :]
        if left:
            raise gzip.BadGzipFile
        return os.dup(plain.fileno())


def beginning(path: str, size: int) -> bytes:
    """
    Return the first *size* bytes of the content of the compressed file *path*.

    Raises:
        ChainError: The file is damaged.
        OSError: It can't be read.
    """
    with regular_file(path) as file, _damage(path), gzip.GzipFile(fileobj=file) as packed:
        return packed.read(size)


def first_bytes(data: bytes, size: int) -> bytes:
    """Return the first bytes, *size* at most, of the content of a file that begins with *data*; none if damaged."""
    try:
        # 31: gzip, and not zlib. https://docs.python.org/3/library/zlib.html#zlib.decompress
        return zlib.decompressobj(31).decompress(data, size)
    except zlib.error:
        return b""


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
    with regular_file(path) as file:
        return _size_at_end(file)


def _size_at_end(file: IO[bytes]) -> int:
    file.seek(max(0, file.seek(0, os.SEEK_END) - 4))
    return int.from_bytes(file.read(4), "little")


@contextlib.contextmanager
def _damage(path: str) -> Generator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error):
        message = f"{os.path.basename(path)} is damaged: it can't be decompressed"
        raise ChainError(ChainStatus.UNREADABLE, message) from None
