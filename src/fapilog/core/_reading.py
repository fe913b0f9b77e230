"""Reading many events, page by page, with or without an event loop."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import Final, Self

from msgspec.structs import replace

from ..record.events import AuditEvent
from ..record.values import text
from ..storage.protocol import AuditStorage, EventFilter, value_at

__all__ = ["Events", "counted"]

_PAGE: Final = 500


class Events:
    """
    Events of a trail, for ``async for``.

    It is no generator, which trio wants to be closed by hand where a loop is left early: there is nothing to close.

    Args:
        storage: Where they are.
        wanted: Which.
        oldest_first: Whether to begin with the oldest.
    """

    def __init__(self, storage: AuditStorage, wanted: EventFilter, *, oldest_first: bool) -> None:
        self._storage = storage
        self._wanted = wanted
        self._oldest_first = oldest_first
        self._page: list[AuditEvent] = []
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AuditEvent:
        """Return the next event; raise AuditStorageError if the trail can't be read."""
        if not self._page:
            self._page = (await self.next_page())[::-1]
        if not self._page:
            raise StopAsyncIteration
        return self._page.pop()

    async def next_page(self) -> list[AuditEvent]:
        """Return the next events, some hundred at most; none if there are no more."""
        while not self._is_over:
            found = await (self._next_oldest() if self._oldest_first else self._next_newest())
            if found:
                return found
        return []

    async def _next_newest(self) -> list[AuditEvent]:
        found = await self._storage.find(self._wanted, _PAGE)
        self._is_over = len(found) < _PAGE
        if found:
            self._wanted = replace(self._wanted, before=found[-1].sequence_number)
        return found

    async def _next_oldest(self) -> list[AuditEvent]:
        page = await self._storage.read(self._wanted.after or 0, _PAGE)
        self._is_over = not page
        found = [event for event in page if self._wanted.matches(event)]
        if page:
            last = page[-1].sequence_number or 0
            self._is_over = self._wanted.before is not None and last >= self._wanted.before
            self._wanted = replace(self._wanted, after=last)
        return found


async def counted(events: Events, field: str) -> dict[str, int]:
    """Return how many of *events* have each value of *field*, the most frequent first."""
    counts = Counter([_labelled(event, field) async for event in events])
    return dict(counts.most_common())


def _labelled(event: AuditEvent, field: str) -> str:
    value = getattr(event, field) if field in event.__struct_fields__ else value_at(event.metadata, field)
    return "" if value is None else text(value.value if isinstance(value, Enum) else value)
