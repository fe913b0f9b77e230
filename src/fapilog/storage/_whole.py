"""Files that appear when they are whole, and on the disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import IO, Final

from ._files.access import allow_as
from ._files.directory import sync_directory

__all__ = ["PART", "remove", "whole"]

PART: Final = ".part"
"""The ending of a file that is being made; one that a crash has left may be deleted."""


def remove(path: str) -> None:
    """Delete a file, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


@contextlib.contextmanager
def whole(path: str, like: int | None = None) -> Generator[IO[bytes]]:
    """Make a file that appears when it is whole and on the disk, with the group and mode of the open file *like*."""
    part = path + PART
    remove(part)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            if like is not None:
                allow_as(fd, like)
            yield file
            file.flush()
            os.fsync(fd)
        os.rename(part, path)
    except BaseException:
        # On a full disk it may have the last room, which the trail needs.
        with contextlib.suppress(OSError):
            remove(part)
        raise
    sync_directory(Path(path).parent)
