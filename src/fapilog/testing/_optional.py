"""The clauses about the methods that a storage may have beside those of `AuditStorage`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from ..record import chain
from ..record.errors import AuditStorageError
from ..record.events import AuditEvent
from ..storage.copying import copy
from ..storage.memory import MemoryStorage
from ..storage.protocol import EventFilter, head_of
from ._place import Place
from ._questions import an_event_with, events_of_all_kinds, questions_about, searched_events

__all__ = ["knows_the_last_before", "pages_from_places", "takes_lines"]

_COUNT: Final = 30
_PAGE: Final = 7


async def knows_the_last_before(place: Place) -> None:
    """Check that `last_before`, where it is, leaves out no event of that time or a later one."""
    storage: Any = place.open()
    if not hasattr(storage, "last_before"):
        return
    events = await place.fill(storage, searched_events(_COUNT))
    for time in [event.timestamp + timedelta(microseconds=later) for event in events for later in (0, 1)]:
        number = await place.ask("last_before", functools.partial(storage.last_before, time))
        missed = [event.sequence_number for event in events[:number] if event.timestamp >= time]
        if missed:
            raise AssertionError(
                f"last_before should return the number of a record up to which no record has that time or a later one;"
                f" it returned {number}, and record {missed[0]} has one"
            )


async def pages_from_places(place: Place) -> None:
    """Check that the pages of `page_from`, where it is, are together what `find` and `read` return."""
    storage: Any = place.open()
    if not hasattr(storage, "page_from"):
        return
    events = await place.fill(storage, searched_events(_COUNT))
    for wanted in (EventFilter(), EventFilter(after=3, before=20), EventFilter(user_id="alice")):
        for oldest_first in (False, True):
            expected = [event for event in events if wanted.matches(event)]
            found: list[AuditEvent] = []
            where: Any = None
            # One page more than there may be, so that it ends.
            for _ in range(_COUNT + 1):
                ask = functools.partial(storage.page_from, where, wanted, _PAGE, oldest_first=oldest_first)
                page, where = await place.ask("page_from", ask)
                found += [event for event in page if wanted.matches(event)]
                if where is None:
                    break
            if found != (expected if oldest_first else expected[::-1]):
                raise AssertionError(
                    f"the pages of page_from with oldest_first={oldest_first} should have each wanted event once, in"
                    f" order, {len(expected)} in all; they have records {[event.sequence_number for event in found]}"
                )


async def takes_lines(place: Place) -> None:
    """Check that a trail which is copied into the storage, where that has `append_lines`, is there as it was."""
    storage: Any = place.open()
    if not hasattr(storage, "append_lines"):
        return
    source = MemoryStorage()
    again = an_event_with("an id that is there already", event_id="again")
    for event in [*events_of_all_kinds(), again, *searched_events(_COUNT), again]:
        await source.append(event)
    await place.ask("append_lines", lambda: copy(source, storage))
    await place.require(storage, source.events)
    lines = await source.read_lines(0, len(source.events))
    if await place.read_lines(storage, 0, len(lines)) != lines:
        raise AssertionError("append_lines should store the very bytes that it is given")
    for conditions in questions_about(source.events[-_COUNT - 1 : -1]):
        await _require_found(place, storage, source.events, EventFilter(**conditions))
    await _refuses(place, storage, chain.EMPTY, lines[:1])
    await _refuses(place, storage, await head_of(storage), lines[3:5])
    await place.require(storage, source.events + await place.fill(storage, [an_event_with("after a copy")]))


async def _require_found(place: Place, storage: Any, events: list[AuditEvent], wanted: EventFilter) -> None:
    expected = [event.sequence_number for event in events[::-1] if wanted.matches(event)]
    found = [event.sequence_number for event in await place.find(storage, wanted, len(events))]
    if found != expected:
        raise AssertionError(f"of copied records, find should return records {expected}; it returned {found}")


async def _refuses(place: Place, storage: Any, after: chain.ChainHead, lines: Sequence[bytes]) -> None:
    async def append() -> bool:
        try:
            await storage.append_lines(after, lines)
        except AuditStorageError:
            return True
        return False

    if not await place.ask("append_lines", append):
        raise AssertionError(
            f"append_lines should raise AuditStorageError if the trail does not end with the head that it is given, or"
            f" if the records do not follow that; it took one after record {after.sequence_number}"
        )
