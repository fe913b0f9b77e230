"""
The latest time of all records up to the end of a day, which a compressed day has in its header.

A question for what came later than that can leave out the day, and all days before it, without fetching any of them: no
name of a file proves that, since clocks step. The time is taken from the records, to the second, when the day is
compressed, and from the day before it, whose records were seen then. A day that was compressed by another program has
none, and is fetched.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .._anchor import anchor_of
from .._files.compressed import note_in
from .._files.lines import lines_of
from .._files.names import SUFFIX, names
from .._files.times import times_of
from .._regular import regular_file

__all__ = ["HEADER_BYTES", "latest_in", "latest_up_to"]

HEADER_BYTES: Final = 64
"""The first bytes of a compressed day, in which the time is."""


def latest_in(data: bytes) -> str | None:
    """Return the time in the header of a compressed day that begins with *data*; None if there is none."""
    return note_in(data).decode("ascii", "replace") or None


def latest_up_to(directory: Path, name: str, files: Sequence[str] | None = None) -> str | None:
    """
    Return the latest time of the records in the file *name* of a trail and before it; None if it is not known.

    Args:
        directory: The directory of the trail.
        name: The name of the file.
        files: The files of the trail, as `names` returns them; None to list them.

    Raises:
        ChainError: The removed files are not known.
        OSError: A file can't be read.
    """
    files = names(directory) if files is None else files
    found: list[str | None] = []
    for index in range(bisect_left(files, name), -1, -1):
        each = files[index]
        if not os.path.exists(directory / each):
            with regular_file(f"{directory}/{each}{SUFFIX}") as file:
                found.append(latest_in(file.read(HEADER_BYTES)))
            break
        with lines_of(directory, each) as lines:
            found.append(times_of(lines).last)
    else:
        anchor = anchor_of(directory)
        found.append("" if anchor is None else anchor.latest)
    known = [each for each in found if each is not None]
    return max(known) if len(known) == len(found) else None
