"""The ids of the newest records of a trail, so that an event that comes twice is stored once."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from .end import CHECKED_BYTES, start_of_end
from .lines import lines_of
from .names import names

__all__ = ["Once", "RecentIds"]

_RECORDS: Final = 65_536


class Once(bytes):
    """The record of an event, without its seal, that is stored only if none of its id is among the newest."""

    __slots__ = ()


class RecentIds:
    """
    The ids of the newest records: of the last 65,536 in the last 16 MiB, as many as a writer reads when it starts.

    Read from the files when they are asked for, and then only the records that have come since. All methods are called
    with the lock on the directory held.

    Args:
        directory: The directory of the files; absolute.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.forget()

    def forget(self) -> None:
        """Begin anew: the files are not the ones that were read."""
        # Up to where the files were read.
        self._place: tuple[str, int] | None = None
        self._read = 0
        # By id, how many bytes had been read with its record.
        self._ids: OrderedDict[str, int] = OrderedDict()

    def new_among(self, bodies: Sequence[bytes], name: str, size: int) -> tuple[list[bytes], list[tuple[int, bool]]]:
        """
        Return the *bodies* that are to be stored, and the places of all *bodies* among them.

        Args:
            bodies: Records without their seals. A record that is no `Once` is stored in any case.
            name: The newest file.
            size: Its size, up to which it is read.

        Returns:
            The bodies to be stored; and for all *bodies* the index among these, with False if another one, of the same
            id, is stored in its place. The index is -1 if the trail has the id already.

        Raises:
            OSError: A file can't be read.
            ChainError: A line is longer than a record can be.
        """
        self._follow(name, size)
        new: list[bytes] = []
        indices: dict[str | None, int] = {}
        places: list[tuple[int, bool]] = []
        for body in bodies:
            event_id = _id_of(body)
            known = -1 if event_id in self._ids else indices.get(event_id)
            if known is not None and isinstance(body, Once):
                places.append((known, False))
            else:
                indices[event_id] = len(new)
                places.append((len(new), True))
                new.append(body)
        return new, places

    def _follow(self, name: str, size: int) -> None:
        """Read the records that have come, up to *size* of the file *name*."""
        place, self._place = self._place, None
        files = [name] if place is not None and place[0] == name else names(self._directory)
        if place is None or place[0] not in files:
            # Not read yet; or the file up to which it was read is gone, and newer ones have come.
            self.forget()
            index, offset, _ = start_of_end(self._directory, files)
        else:
            index, offset = files.index(place[0]), place[1]
        for each in files[index:]:
            with lines_of(self._directory, each) as lines:
                for _, line in lines.forwards(offset, size if each == name else lines.end()):
                    self._note(line)
            offset = 0
        # Not before all is read: an interrupt in between leaves no gap, but reads all anew.
        self._place = name, size

    def _note(self, line: bytes) -> None:
        self._read += len(line) + 1
        if (event_id := _id_of(line)) is None:
            return
        self._ids.pop(event_id, None)
        self._ids[event_id] = self._read
        while len(self._ids) > _RECORDS or next(iter(self._ids.values())) <= self._read - CHECKED_BYTES:
            self._ids.popitem(last=False)


@cache
def _start() -> re.Pattern[bytes]:
    # The beginning of a record, in all versions of the format. Inside of a JSON string a quote is escaped.
    return re.compile(rb'\{"v":[0-9]+,"event_id":("(?:[^"\\]|\\.)*+")')


def _id_of(record: bytes) -> str | None:
    """Return the event id with which *record* begins; None if it is no record."""
    found = _start().match(record)
    try:
        # Decoded: earlier versions of the format wrote some characters as they are, and later ones as escapes.
        return msgspec.json.decode(found[1], type=str) if found else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
