"""Troubles that an operator must mend while records are still stored: little room, missing files, a wrong clock."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from ...record.chain import ChainHead
from .._anchor import is_removed, start_of
from .._holes import head_of_record
from .._room import Room
from .compressed import first_bytes
from .directory import identity, reading
from .lines import Lines, lines_of
from .names import SUFFIX, day_after, file_of_day, names
from .recovering import last_seal

__all__ = ["Care"]

# A packed or rotated copy of a day's file, as logrotate, gzip and similar tools name it.
_PACKED: Final = (
    # With something behind the name: a day's file may be made while this looks.
    r"(audit_[0-9]{4}-[0-9]{2}-[0-9]{2}\.jsonl)(?=.)(?:[.-][0-9]+)?(?:\.(gz|bz2|xz|zst|lz4|Z|zip))?"
)
# Of such a copy, and of the file, to compare them.
_FIRST_BYTES: Final = 1 << 12
_LEAVE: Final = "and let no logrotate, and nothing else, pack or move the files of a trail"
# Seconds by which the newest write may be ahead of the clock: other machines may write, and no two clocks are equal.
_AHEAD: Final = 3600.0


class Care:
    """
    Looks at the directory of a trail from outside, without a lock; never at all of the records.

    Its methods block. A look takes one listing of the directory, and two reads per file if the directory has changed,
    which is once a day.

    Args:
        directory: The directory of the files; absolute.
        min_free: Bytes, or a share below 1, of the file system that are to be free; None for the default of
            `FileStorage`.
        now: Returns the time; the writer's clock.
    """

    def __init__(self, directory: Path, *, min_free: float | None, now: Callable[[], datetime]) -> None:
        self._directory = directory
        self._now = now
        self._room = Room(directory, min_free)
        self._listed: tuple[int, int, int] | None = None
        self._missing: str | None = None

    def concerns(self) -> dict[str, str]:
        """
        Return the causes of the concerns, by their names: "capacity", "files", "clock".

        Raises:
            OSError: The directory, or a file, can't be read.
        """
        try:
            listed = identity(os.fspath(self._directory))
        except FileNotFoundError:
            if self._listed is None:
                return {}  # no event was stored yet
            raise
        if listed != self._listed:
            self._missing = self._missing_now()
            self._listed = listed
        clock = self._time(names(self._directory))
        found = {"capacity": self._room.concern(), "files": self._missing, "clock": clock}
        return {name: words for name, words in found.items() if words is not None}

    def _missing_now(self) -> str | None:
        while True:
            start = start_of(self._directory)
            try:
                files = names(self._directory)
                found = self._moved(files) or self._gap(files, start)
            except FileNotFoundError:
                if start_of(self._directory) == start:
                    raise
            else:
                if found is None or start_of(self._directory) == start:
                    return found
            # Days were removed meanwhile.

    def _moved(self, files: list[str]) -> str | None:
        """Return a sentence about a file whose records were packed or moved to a copy that is there."""
        there = set(files)
        for name in sorted(os.listdir(self._directory)):
            found = re.fullmatch(_PACKED, name)
            is_gone = found is not None and found[1] not in there
            if (
                found is None
                or (not is_gone and self._is_copy(found))
                or is_removed(self._directory, found[1])
                or self._is_sealed(files, found[1])
            ):
                continue
            if is_gone:
                words = f"{found[1]} is gone, and {name} is there: unpack it to the former name"
                return f"{self._directory}: {words}, {_LEAVE}"
            return (
                f"{self._directory}: {found[1]} was begun anew, and its former records are in {name}: while no "
                "process writes, put these back in front of the new ones, seal the gap by `fapilog recover`, "
                f"{_LEAVE}"
            )
        return None

    def _gap(self, files: list[str], start: ChainHead) -> str | None:
        """Return a sentence about records that are missing between the records of two files, or before the first."""
        last: _Last | None = _Last("", start)
        for name in files:
            if not os.path.exists(self._directory / name):
                # To look at the end of one that is compressed takes all of it; a verification does.
                last = None
                continue
            with lines_of(self._directory, name) as lines:
                size, first = lines.size, lines.start()
            if first is not None and last is not None and not last.is_followed_by(first, self._directory):
                if self._is_sealed(files, name):
                    return None
                behind = f"behind {last.name}" if last.name else "at the beginning"
                return (
                    f"{self._directory}: records are missing {behind}, as {name} goes on behind record "
                    f"{first.sequence_number}: put back the file that was removed or cut; `fapilog verify` says more"
                )
            if size:
                last = _Last(name, None)
        return None

    def _is_copy(self, found: re.Match[str]) -> bool:
        """Return whether the file *found* begins as the file of the trail whose name it has, as far as can be told."""
        name, file, packer = found[0], found[1], found[2]
        if name == file + SUFFIX or not os.path.exists(self._directory / file):
            # The file itself, which retention has compressed.
            return True
        try:
            with reading(self._directory, file) as fd, reading(self._directory, name) as other:
                ours, copied = (os.pread(each, _FIRST_BYTES, 0) for each in (fd, other))
        except OSError:
            return True
        if packer == "gz":
            copied = first_bytes(copied, _FIRST_BYTES)
        elif packer is not None and ours:
            return True
        size = min(len(ours), len(copied))
        return ours[:size] == copied[:size] and bool(ours or not copied)

    def _is_sealed(self, files: list[str], since: str) -> bool:
        """Return whether an operator knows of damage, and has sealed it with a reason in the file *since* or later."""
        first = sum(name < since for name in files)
        return last_seal(self._directory, files, first, 0) is not None

    def _time(self, files: list[str]) -> str | None:
        if not files:
            return None
        newest, now = files[-1], self._now()
        today = file_of_day(now.toordinal())
        to_come = [name for name in files if name > day_after(today)]
        if to_come:
            # The writer never goes back to an older file, whatever the clock does from now on.
            before = files[: -len(to_come)]
            free = max(today, day_after(before[-1])) if before else today
            target = f"that file to {free}" if to_come == [newest] else f"these files, in their order, from {free} on"
            return (
                f"{self._directory}: {_few(to_come)} is of a day to come, for it is {now:%Y-%m-%d}, and every record "
                f"goes to that file: set the clock right; then, while no process writes, rename {target}"
            )
        if not os.path.exists(self._directory / newest):
            return None  # it was compressed meanwhile
        written = os.stat(self._directory / newest).st_mtime
        # The kernel's time, which has stamped the file, and not the one that a test has put in place of `time.time`.
        clock = time.clock_gettime(time.CLOCK_REALTIME)
        if written - clock > _AHEAD:
            return (
                f"{self._directory}: {newest} was written {written - clock:.0f} s from now: the clock was ahead then, "
                "or is behind now; set it right"
            )
        return None


class _Last(NamedTuple):
    """The last file with records, and the head behind them if that is known."""

    name: str
    head: ChainHead | None

    def is_followed_by(self, head: ChainHead, directory: Path) -> bool:
        """Return whether the file ends with the newest record of *head*, or with the rest that a crash left."""
        if self.head is not None:
            return head == self.head
        with lines_of(directory, self.name) as lines:
            # Else it may end in the rest that a crash has left there, or was converted.
            return lines.end_with(head, lines.size) or _newest(lines) == head


def _newest(lines: Lines) -> ChainHead | None:
    """Return the head behind the last whole record."""
    heads = (head_of_record(line) for _, line in lines.backwards(lines.end()))
    return next(filter(None, heads), None)


def _few(found: list[str]) -> str:
    return found[0] if not found[1:] else f"{found[0]} (and {len(found) - 1} more like it)"
