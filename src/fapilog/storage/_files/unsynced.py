"""
Records whose sync failed.

Readers can see them, so they can't be taken back: a shipper that follows the file may have sent them on, and their
numbers must not come twice. After a failed sync the kernel counts their pages as clean, and another sync would succeed
without writing anything: https://wiki.postgresql.org/wiki/Fsync_Errors. Only writing them again makes the pages dirty
again, so that a sync really syncs them.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from .descriptors import closing, sync
from .directory import open_file

__all__ = ["Unsynced"]


class Unsynced(msgspec.Struct, frozen=True):
    """
    Records that are written, and may not be on the disk.

    Attributes:
        name: Their file.
        file: Its device and inode.
        offset: The offset of the first one.
        data: Their bytes.
    """

    name: str
    file: tuple[int, int]
    offset: int
    data: bytes

    @classmethod
    def of(cls, name: str, fd: int, offset: int, data: bytes) -> Unsynced:
        """Return the records *data* that were written at *offset* of the open file *fd*."""
        found = os.fstat(fd)
        return cls(name, (found.st_dev, found.st_ino), offset, data)

    def store(self, directory: Path) -> None:
        """
        Write the records again where they are, and sync them.

        Does nothing if something else is there, since the file was replaced, cut or changed meanwhile: the next look at
        the chain reports that.

        Raises:
            OSError: They still may not be on the disk.
        """
        is_append_only = False
        try:
            fd = open_file(directory, self.name, os.O_RDWR)
        except FileNotFoundError:
            return
        except PermissionError:
            # An append-only file (`chattr +a`) takes no byte twice. A sync is the most that can be had.
            fd = open_file(directory, self.name, os.O_RDWR | os.O_APPEND)
            is_append_only = True
        with closing(fd):
            if not self._are_in(fd):
                return
            written = len(self.data) if is_append_only else 0
            while written < len(self.data):
                written += os.pwrite(fd, self.data[written:], self.offset + written)
            sync(fd)

    def _are_in(self, fd: int) -> bool:
        """Return whether the open file *fd* is theirs, and has nothing else in their place."""
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != self.file:
            return False
        there = os.pread(fd, len(self.data), self.offset)
        if there == self.data:
            return True
        # Read from the disk anew, bytes that never came there are zeros.
        return len(there) == len(self.data) and all(a in (0, b) for a, b in zip(there, self.data, strict=True))
