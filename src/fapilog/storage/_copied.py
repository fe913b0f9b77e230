"""Records that are appended as they are: checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

from ..record.chain import ChainError, ChainHead, follow
from ..record.errors import AuditStorageError, TrailMismatchError

__all__ = ["elsewhere", "followed"]


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
