"""Records that are appended as they are: checked before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec

from ..record.chain import ChainError, ChainHead, follow, head_before
from ..record.errors import AuditStorageError, TrailMismatchError
from ..record.formats import decoded

__all__ = ["by_day", "elsewhere", "followed", "is_record"]


def followed(place: object, after: ChainHead, lines: Sequence[bytes]) -> ChainHead:
    """
    Return the head after *lines*, which follow the head *after*.

    Raises:
        TrailMismatchError: They do not; the message begins with *place*.
    """
    try:
        return follow(after, lines)
    except ChainError as damage:
        raise TrailMismatchError(f"{place}: in the given records, {damage}; nothing is appended") from damage


def elsewhere(place: object, after: ChainHead | None) -> AuditStorageError:
    """Return the error that says that the trail in *place* does not end with the head *after*."""
    number = 0 if after is None else after.sequence_number
    return AuditStorageError(f"{place}: its newest record is not record {number}; nothing is appended")


def by_day(lines: Sequence[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the consecutive records of one day, with the ordinal of that day."""
    for day, group in groupby(lines, key=_day):
        yield day, list(group)


def _day(line: bytes) -> int:
    try:
        return decoded(line).timestamp.toordinal()
    except (msgspec.MsgspecError, UnicodeDecodeError):
        # Of a kind that only a later version can read: it goes where the newest file is.
        return 1


def is_record(line: bytes) -> bool:
    """Return whether *line* claims to have a place in the chain."""
    try:
        head_before(line)
    except ChainError:
        return False
    return True
