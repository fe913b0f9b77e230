"""Reading many events, page by page, with or without an event loop."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from typing import Any, Final, Generic, Literal, Self, TypeVar

import msgspec

from ..record.chain import is_intact
from ..record.damage import DamagedRecord
from ..record.errordetails import ErrorDetails
from ..record.errors import AuditStorageError
from ..record.events import AuditEvent
from ..record.options import did_you_mean
from ..record.parties import Actor, Target
from ..record.values import kind_of, text
from ..storage.protocol import AuditStorage, EventFilter, value_at
from ..tasks.strangers import Log, contained

__all__ = ["Events", "counted", "intact", "member_of_events"]

Item = TypeVar("Item", bound="AuditEvent | DamagedRecord")

_PAGE: Final = 500

_log: Final = Log("fapilog")


class Events(Generic[Item]):
    """
    Events of a trail, for ``async for``.

    It is no generator, which trio wants to be closed by hand where a loop is left early: there is nothing to close.

    Args:
        storage: Has the events.
        wanted: The conditions.
        oldest_first: Whether to begin with the oldest.
        noting: Is called with the function that reads the first page; records the reading, and returns the page.
        on_damage: How to treat records that can't be read: "log" leaves them out with one warning, "raise" raises
            `AuditStorageError` at the first, and "yield" yields a `DamagedRecord` in their place.

    Raises:
        ValueError: *on_damage* is something else.
    """

    def __init__(
        self,
        storage: AuditStorage,
        wanted: EventFilter,
        *,
        oldest_first: bool,
        on_damage: Literal["log", "raise", "yield"] = "log",
        noting: Callable[[Callable[[], Awaitable[list[Item]]]], Awaitable[list[Item]]] | None = None,
    ) -> None:
        if on_damage not in ("log", "raise", "yield"):
            raise ValueError(f'on_damage: expected "log", "raise" or "yield"; got {on_damage!r}')
        self._storage = storage
        self._has_places = _has_places(storage)
        self._wanted = wanted
        self._oldest_first = oldest_first
        self._on_damage = on_damage
        self._noting = noting
        self._page: list[Item] = []
        self._hole: DamagedRecord | None = None
        # From where the next page is read, if the storage says that; and the number of the last event.
        self._place: Any = None
        self._last: int | None = None
        # The intact events that were read, as soon as one is not in the order of the numbers.
        self._seen: set[tuple[int | None, str | None]] | None = None
        self._is_begun = False
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        """Return the next event; raise AuditStorageError if the trail can't be read."""
        if not self._page:
            self._page = (await self.next_page())[::-1]
        if not self._page:
            raise StopAsyncIteration
        return self._page.pop()

    async def next_page(self) -> list[Item]:
        """Return the next events, some hundred at most; none if there are no more."""
        noting, self._noting = self._noting, None
        return await (self._next_page() if noting is None else noting(self._next_page))

    async def _next_page(self) -> list[Item]:
        while not self._is_over:
            place = self._place
            with contained():
                found = await self._found()
                if self._has_places and self._seen is None and not self._is_in_order(found):
                    try:
                        self._seen = await self._read_before(place)
                    except BaseException:
                        # The next call reads this page again.
                        self._place, self._is_over = place, False
                        raise
            # The only place that knows which kind of items were asked for.
            page: list[Any] = [item for item in found if self._takes(item)]
            if page:
                return page
        return []

    def _is_in_order(self, found: Sequence[AuditEvent | DamagedRecord]) -> bool:
        """Return whether the events behind the last page have numbers in order, so that none was read before."""
        numbers = [item.sequence_number or 0 for item in found if isinstance(item, AuditEvent)]
        numbers = numbers if self._last is None else [self._last, *numbers]
        self._last = numbers[-1] if numbers else None
        step = 1 if self._oldest_first else -1
        return all(step * (other - one) > 0 for one, other in itertools.pairwise(numbers))

    async def _read_before(self, place: Any) -> set[tuple[int | None, str | None]]:
        """Return the intact events that were read before *place*, the other way round."""
        storage: Any = self._storage
        seen: set[tuple[int | None, str | None]] = set()
        while place is not None:
            found, place = await storage.page_from(place, self._wanted, _PAGE, oldest_first=not self._oldest_first)
            seen |= {_identity(item) for item in found if isinstance(item, AuditEvent) and is_intact(item)}
        return seen

    def _takes(self, item: AuditEvent | DamagedRecord) -> bool:
        """Return whether *item* is yielded; raise AuditStorageError if it is a hole, and holes are to be raised."""
        if isinstance(item, AuditEvent):
            # An altered copy has the number and the checksum of the record too, which it must not hide.
            if self._seen is None or not is_intact(item):
                return True
            count = len(self._seen)
            self._seen.add(_identity(item))
            return len(self._seen) > count
        if item == self._hole:
            # The one behind the last event was in the page before too.
            return False
        is_first, self._hole = self._hole is None, item
        if self._on_damage == "raise":
            raise AuditStorageError(f"a record can't be read: {item}")
        if self._on_damage == "log" and is_first:
            _warn(item)
        return self._on_damage == "yield"

    async def _found(self) -> Sequence[AuditEvent | DamagedRecord]:
        """Return the events and holes of the next page that are wanted."""
        if not self._oldest_first:
            return await (self._next_page_from() if self._has_places else self._next_newest())
        wanted = self._wanted = await self._behind_earlier()
        found = await (self._next_page_from() if self._has_places else self._next_oldest())
        return [item for item in found if isinstance(item, DamagedRecord) or wanted.matches(item)]

    async def _next_page_from(self) -> Sequence[AuditEvent | DamagedRecord]:
        storage: Any = self._storage
        found: Sequence[AuditEvent | DamagedRecord]
        found, self._place = await storage.page_from(self._place, self._wanted, _PAGE, oldest_first=self._oldest_first)
        self._is_over = self._place is None
        return found

    async def _next_newest(self) -> Sequence[AuditEvent | DamagedRecord]:
        wanted = self._wanted
        found = await self._storage.find(wanted, _PAGE)
        numbers = [item.sequence_number or 0 for item in found if isinstance(item, AuditEvent)]
        self._is_over = len(numbers) < _PAGE
        if numbers:
            # Always smaller, whatever a storage makes of an altered record.
            before = numbers[-1] if wanted.before is None else min(numbers[-1], wanted.before - 1)
            self._wanted = wanted.numbered(after=wanted.after, before=before)
        return found

    async def _next_oldest(self) -> Sequence[AuditEvent | DamagedRecord]:
        wanted, after, before = self._wanted, self._wanted.after or 0, self._wanted.before
        read = await self._storage.read(after, _PAGE)
        numbers = [item.sequence_number or 0 for item in read if isinstance(item, AuditEvent)]
        self._is_over = not numbers
        if numbers:
            last = max(numbers[-1], after + 1)
            self._is_over = before is not None and last >= before
            self._wanted = wanted.numbered(after=last, before=before)

        def may_be_before(item: AuditEvent | DamagedRecord) -> bool:
            return before is None or isinstance(item, DamagedRecord) or (item.sequence_number or 0) < before

        # No hole behind the first event that is too new is asked for.
        return [*itertools.takewhile(may_be_before, read)]

    async def _behind_earlier(self) -> EventFilter:
        """Return the question, asked of records behind the ones that the storage knows to be too early."""
        wanted, last_before = self._wanted, getattr(self._storage, "last_before", None)
        if self._is_begun or last_before is None or wanted.start_time is None:
            return wanted
        self._is_begun = True
        after = max(await last_before(wanted.start_time), wanted.after or 0)
        return wanted.numbered(after=after, before=wanted.before)


def _has_places(storage: AuditStorage) -> bool:
    """Return whether *storage* has a `page_from`, and no `find` or `read` in the place of those that belong to it."""
    for named in (getattr(storage, "__dict__", {}), *map(vars, type(storage).__mro__)):
        if "find" in named or "read" in named or "page_from" in named:
            return "page_from" in named
    return False


def _identity(event: AuditEvent) -> tuple[int | None, str | None]:
    return event.sequence_number, event.checksum


def intact(items: Sequence[AuditEvent | DamagedRecord]) -> list[AuditEvent]:
    """Return the events of *items*, and log one warning if there are holes between them."""
    holes = [item for item in items if isinstance(item, DamagedRecord)]
    if holes:
        _warn(holes[0])
    return [item for item in items if isinstance(item, AuditEvent)]


def _warn(hole: DamagedRecord) -> None:
    _log.warning("records that can't be read are left out; the first is in %s", hole)


async def counted(events: AsyncIterable[AuditEvent], value_of: Callable[[AuditEvent], object]) -> dict[str, int]:
    """Return how many of *events* have which value, the most frequent value first; those without one under ""."""
    counts: Counter[str] = Counter()
    # Not of a list, which would have all the values of a long trail at once.
    async for event in events:
        counts[_label(value_of(event))] += 1
    return dict(counts.most_common())


def member_of_events(field: str) -> Callable[[AuditEvent], object]:
    """
    Return the function that returns the value which an event has in *field*; None if it has none.

    Args:
        field: A member, "user_id"; a member of one, "target.type"; or the path of a value in the metadata,
            "metadata.http.status".

    Raises:
        TypeError: *field* is no text.
        ValueError: There is no such member; the message has the nearest.
    """
    expected = f"expected one of {', '.join(_FIELDS)}, or metadata. and a path, as in metadata.http.status"
    if not isinstance(field, str):
        raise TypeError(f"field: {expected}; got {kind_of(field)}")
    member, _, path = field.partition(".")
    if field in _FIELDS:
        return lambda event: _member(event, field.split("."))
    if member == "metadata":
        return lambda event: value_at(event.metadata, path)
    raise ValueError(f"field: {expected}; got {field[:_LONGEST_SHOWN]!r}{did_you_mean(field, _FIELDS)}")


def _member(event: AuditEvent, names: Sequence[str]) -> object:
    value: object = event
    for name in names:
        # The target and the actor are None in many events, and so are their members then.
        value = getattr(value, name, None)
    return value


_FIELDS: Final = (
    *AuditEvent.__struct_fields__,
    *(
        f"{name}.{part}"
        for name, kind in (("actor", Actor), ("target", Target), ("error", ErrorDetails))
        for part in kind.__struct_fields__
    ),
)
_LONGEST_SHOWN: Final = 64


def _label(value: object) -> str:
    if value is None:
        return ""
    # Of a target, the text by which it is asked for; of all else that is no text, its JSON.
    plain = str(value) if isinstance(value, Target) else msgspec.to_builtins(value)
    return text(plain) if isinstance(plain, str) else msgspec.json.encode(plain).decode()
