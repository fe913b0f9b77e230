"""
Room for records before they are written, on a file system that is nearly full.

A write that finds no room leaves a piece of a record behind. It is cut off again at once, but a log shipper may have
read it: `tail -F` then sends the whole file again, and rsyslog's imfile takes the rest of its line from the middle of
the next record. So where room is short, it is reserved first, which no reader can see: a record is written whole, or
not at all.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["Reserving"]

# Bytes free, below which room is reserved: more than all processes of a machine write in the time between two looks.
_SHORT: Final = 256 << 20
# Seconds between two looks at the file system, and for which a write that found no room counts: with a quota, the file
# system does not tell.
_LOOK_EVERY: Final = 0.1
_REMEMBER: Final = 60.0

_KEEP_SIZE: Final = 1
# File systems and kernels that can't reserve.
_UNABLE: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class Reserving:
    """
    Reserves room where it is short.

    Args:
        directory: The directory of the records.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._look_at = self._until = 0.0
        self._is_due = False

    def fitting(self, fd: int, size: int, lines: list[bytes]) -> tuple[list[bytes], OSError | None]:
        """
        Return the first of *lines* that fit behind the end of a file, and why the next one does not.

        Nothing changes that a reader can see. Where room is not short, or the file system can't reserve any, all lines
        are said to fit.

        Args:
            fd: The file, open for writing.
            size: The size of the file.
            lines: The lines to write next, at least one.
        """
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            self._is_due = now < self._until or self._is_short()
        if not self._is_due:
            return lines, None
        with contextlib.suppress(OSError):
            _reserve(fd, size, sum(map(len, lines)))
            return lines, None
        for count, line in enumerate(lines):
            try:
                _reserve(fd, size, len(line))
            except OSError as error:
                return lines[:count], error
            size += len(line)
        return lines, None

    def was_full(self) -> None:
        """Note that a write found no room."""
        self._until = time.monotonic() + _REMEMBER
        self._is_due = True

    def _is_short(self) -> bool:
        try:
            found = os.statvfs(self._directory)
        except OSError:
            return True
        has_limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
        return has_limit or found.f_bavail * found.f_frsize < _SHORT


def _reserve(fd: int, offset: int, length: int) -> None:
    import ctypes  # noqa: PLC0415  most processes never have to

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and offset + length > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    fallocate = _fallocate()
    while fallocate is not None and fallocate(fd, _KEEP_SIZE, offset, length):
        number = ctypes.get_errno()
        if number in _UNABLE:
            return
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


@functools.cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    """Return Linux's fallocate(2), which Python does not have; None where it is missing."""
    import ctypes  # noqa: PLC0415

    # Not `os.posix_fallocate`, which changes the size of the file: https://man7.org/linux/man-pages/man2/fallocate.2.html
    call = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if call is not None:
        call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return call
