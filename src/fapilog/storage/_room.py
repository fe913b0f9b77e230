"""The room that is left for records, of which an operator should know before there is none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["Room"]

# As auditd's space_left: https://man7.org/linux/man-pages/man5/auditd.conf.5.html. A small volume of its own, on which
# that would be all there is, has a share.
_LEAST_FREE: Final = 75 << 20
_LEAST_SHARE: Final = 0.1
# More than the limit must be free again: an incident is not resolved and opened anew with every megabyte.
_MARGIN: Final = 1.1


class Room:
    """
    The room on the file system of a directory.

    Args:
        directory: The directory of the records.
        min_free: Bytes, or a share below 1, of the file system that are to be free; None for the default: 75 MiB, or a
            tenth where the file system has less than 750 MiB.
    """

    def __init__(self, directory: Path, min_free: float | None = None) -> None:
        self._directory = directory
        self._min_free = min_free
        self._is_low = False

    def concern(self) -> str | None:
        """
        Return how little is free, and the advice; None if it is enough, or the directory is not made yet.

        Raises:
            OSError: The file system can't be asked.
        """
        try:
            found = os.statvfs(self._directory)
        except FileNotFoundError:
            return None
        size, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
        asked = self._min_free
        limit = min(_LEAST_FREE, size * _LEAST_SHARE) if asked is None else asked if asked >= 1 else size * asked
        self._is_low = free < limit * (_MARGIN if self._is_low else 1)
        if not self._is_low:
            return None
        return (
            f"{self._directory}: {_mebibytes(free)} of {_mebibytes(size)} are free, and {_mebibytes(limit)} should be; "
            "make room, or a larger file system: when it is full, no event can be stored"
        )


def _mebibytes(count: float) -> str:
    return f"{count / (1 << 20):,.1f} MiB"
