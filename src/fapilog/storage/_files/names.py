"""The names of a trail's files, and the kinds of these files."""

from __future__ import annotations

import errno
import os
import re
from datetime import date
from pathlib import Path
from typing import Final

from .._anchor import ANCHOR, anchor_of
from .._regular import no_file

__all__ = [
    "SUFFIX",
    "date_of",
    "day_after",
    "day_of",
    "file_of_day",
    "files_set_aside",
    "is_name",
    "is_set_aside",
    "names",
]

SUFFIX: Final = ".gz"
"""The ending of a day's file that is compressed."""

# Not "\d", which takes the digits of all scripts.
_NAME: Final = r"audit_[0-9]{4}-[0-9]{2}-[0-9]{2}\.jsonl"
_SET_ASIDE: Final = _NAME + r"\.torn-[0-9]+-[0-9a-f]+"
_OF_A_DAY: Final = rf"({_NAME})({re.escape(SUFFIX)}|\.torn-.*)?"


def is_name(name: str) -> bool:
    """Return whether a file of the trail may have that *name*; of a compressed one, the name that it had."""
    return re.fullmatch(_NAME, name) is not None


def file_of_day(day: int) -> str:
    """Return the name of the file for *day*, a proleptic Gregorian ordinal."""
    return date.fromordinal(day).strftime("audit_%Y-%m-%d.jsonl")


def date_of(name: str) -> date:
    """Return the day of the file *name*; raise ValueError if there is no such day."""
    return date.fromisoformat(name[len("audit_") : -len(".jsonl")])


def day_after(name: str) -> str:
    """
    Return the name of the file for the day after that of the file *name*.

    Raises:
        OSError: There is no such day.
    """
    try:
        return file_of_day(date_of(name).toordinal() + 1)
    except (ValueError, OverflowError) as error:
        raise OSError(errno.EINVAL, f"{name}: expected a file with a day after it") from error


def names(directory: Path) -> list[str]:
    """
    Return the names of the trail's files, the oldest first.

    For a compressed file, the name that it had. Files that retention has removed are left out, also if a crash has left
    them.

    Raises:
        ChainError: The removed files are not known.
        OSError: One of them is no regular file, or the directory can't be read.
    """
    try:
        entries = os.scandir(directory)
    except FileNotFoundError:
        if directory.is_symlink():  # to a volume that is not mounted, say
            raise
        return []
    with entries:
        there = {entry.name: entry for entry in entries}
    found = [entry for entry in there.values() if is_name(entry.name.removesuffix(SUFFIX))]
    for entry in found:
        # Most file systems give the kind with the name, so that this reads nothing more.
        if not entry.is_file(follow_symlinks=False) and (words := no_file(entry.path)):
            raise OSError(errno.EINVAL, words)
    anchor = anchor_of(directory) if ANCHOR in there else None
    last = "" if anchor is None else anchor.file
    return sorted(name for name in {entry.name.removesuffix(SUFFIX) for entry in found} if name > last)


def day_of(name: str) -> str | None:
    """Return the name of the file of the trail that the file *name* is, compressed or not, or an end of; else None."""
    found = re.fullmatch(_OF_A_DAY, name)
    return None if found is None else found[1]


def files_set_aside(directory: Path) -> tuple[str, ...]:
    """Return the names of the files that hold incomplete records, sorted; raise as `names`."""
    anchor = anchor_of(directory)
    last = "" if anchor is None else anchor.file
    found = filter(is_set_aside, os.listdir(directory))
    return tuple(sorted(name for name in found if name[: len(last)] > last or not last))


def is_set_aside(name: str) -> bool:
    """Return whether a file of that name holds an incomplete record."""
    return re.fullmatch(_SET_ASIDE, name) is not None
