"""The files of an archive: their names, and how they are read back."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import IO, Final

from ..record.errors import AuditStorageError
from ._anchor import ANCHOR
from ._names import SUFFIX, is_set_aside

__all__ = ["from_disk", "is_archived_name", "not_what_the_trail_has"]

_DAY: Final = rf"audit_[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}\.jsonl{re.escape(SUFFIX)}"


def from_disk(path: Path) -> IO[bytes]:
    """Open a file so that it is read from the disk, if the system can do that, and not from the cache."""
    file = path.open("rb")
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return file


def not_what_the_trail_has(place: object) -> AuditStorageError:
    """Return the error that says that a file in an archive, or a compressed one, has other bytes than the trail."""
    return AuditStorageError(f"{place}: read back, it differs from the trail; nothing is deleted")


def is_archived_name(name: str) -> bool:
    """Return whether a file of that name belongs to an archive."""
    return name == ANCHOR or is_set_aside(name) or re.fullmatch(_DAY, name) is not None
