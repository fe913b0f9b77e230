"""
The front of a trail in a database, whose first records retention had removed before the trail was copied there.

A directory has an anchor, which is no proof by itself: a record of the trail says the same. A database needs no anchor
beside its rows: the first record names the head that it follows, and the record about the removal names that head too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..record.chain import EMPTY, ChainError, ChainHead, head_before
from ..record.events import AuditEvent
from ..record.kinds import AuditEventType
from ._anchor import Anchor, anchor_in
from .protocol import AuditStorage, EventFilter

__all__ = ["followed_by", "front_of"]

_PAGE: Final = 100
_REMOVALS: Final = EventFilter(event_type=AuditEventType.RETENTION_POLICY_APPLIED)


def followed_by(lines: Sequence[bytes]) -> ChainHead:
    """Return the head that the first of *lines* claims to follow; `EMPTY` if it claims nothing, or is not there."""
    try:
        return head_before(lines[0]) if lines else EMPTY
    except ChainError:
        return EMPTY


async def front_of(storage: AuditStorage) -> Anchor | None:
    """
    Return the end of the removed records, as a record in *storage* has it; None if there is no such record.

    Raises:
        AuditStorageError: It can't be read.
    """
    head = followed_by(await storage.read_lines(0, 1))
    if head == EMPTY:
        return None
    wanted = _REMOVALS
    while found := [each for each in await storage.find(wanted, _PAGE) if isinstance(each, AuditEvent)]:
        anchors = filter(None, map(anchor_in, found))
        if anchor := next((each for each in anchors if each.head == head), None):
            return anchor
        before = min(each.sequence_number or 0 for each in found)
        if wanted.before is not None and before >= wanted.before:
            break
        wanted = wanted.numbered(after=None, before=before)
    return None
