"""The files of an archive: their names, and how they are read back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from ...record.errors import AuditStorageError
from .._anchor import ANCHOR
from .._files.names import SUFFIX, is_name, is_set_aside
from .._files.regular import regular_file

__all__ = ["from_disk", "is_archived_name", "not_what_the_trail_has"]


def from_disk(path: Path) -> IO[bytes]:
    """Open a file so that it is read from the disk, if the system can do that, and not from the cache."""
    file = regular_file(path)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return file


def not_what_the_trail_has(place: object) -> AuditStorageError:
    """Return the error that says that a file in an archive, or a compressed one, has other bytes than the trail."""
    return AuditStorageError(f"{place}: read back, it differs from the trail")


def is_archived_name(name: str) -> bool:
    """Return whether a file of that name belongs to an archive."""
    is_day = name.endswith(SUFFIX) and is_name(name.removesuffix(SUFFIX))
    return is_day or is_set_aside(name) or name == ANCHOR
