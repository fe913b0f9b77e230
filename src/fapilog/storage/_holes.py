"""What is read of a trail: events, and the holes between them."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from ..record.damage import DamagedRecord
from ..record.events import AuditEvent

__all__ = ["joined", "up_to"]


def joined(items: Iterable[AuditEvent | DamagedRecord]) -> Generator[AuditEvent | DamagedRecord, None, None]:
    """Yield *items*, with holes that are next to each other as one."""
    hole: DamagedRecord | None = None
    for item in items:
        if isinstance(item, DamagedRecord):
            both = None if hole is None else hole.joined(item)
            if hole is not None and both is None:
                yield hole
            hole = both or item
            continue
        if hole is not None:
            yield hole
            hole = None
        yield item
    if hole is not None:
        yield hole


def up_to(limit: int, items: Iterable[AuditEvent | DamagedRecord]) -> Generator[AuditEvent | DamagedRecord, None, None]:
    """Yield *items* up to the event that is the last of *limit*."""
    for item in items:
        if limit < 1:
            return
        yield item
        limit -= isinstance(item, AuditEvent)
