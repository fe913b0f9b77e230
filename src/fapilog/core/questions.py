"""Asking a trail: for its events, and whether they are unchanged."""

from __future__ import annotations

import functools
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import msgspec

from ..record import chain
from ..record.chain import EMPTY, AuditChainVerificationResult, ChainHead
from ..record.damage import DamagedRecord
from ..record.events import AuditEvent
from ..record.later import loading
from ..record.options import require, require_callable, require_kind
from ..record.privacy import without_frames
from ..record.values import kind_of
from ..storage.protocol import AuditStorage, Conditions, EventFilter, head_of, holds
from ..tasks.strangers import contained
from ._alerts import Alerts
from ._incidents import VERIFICATION
from ._ownrecords import LogEvent, OwnRecords

if TYPE_CHECKING:
    from ._reading import Events

__all__ = ["Questions"]


class Questions:
    """
    The methods of `AuditTrail` that find, count and verify events.

    Under PCI DSS every call of `get_events`, `events` and `count_by` is recorded.
    """

    if TYPE_CHECKING:  # the trail's
        _alerts: Alerts
        _storage: AuditStorage
        _asked: AuditStorage
        _own_records: OwnRecords
        log_event: LogEvent

    @without_frames
    async def get_events(self, *, limit: int = 100, **conditions: Unpack[Conditions]) -> list[AuditEvent]:
        """
        Return stored events that meet all conditions, the newest first.

        Records that can't be read are left out with one warning; `events` has other ways.

        Args:
            limit: The most events to return.
            **conditions: As `EventFilter` explains them: *start_time*, *end_time*, *user_id*, *target* and so on.

        Raises:
            AuditStorageError: The trail can't be read.
            TypeError: There is no such condition, a time is no datetime, or a number is none.
            ValueError: A time without zone, an unknown type or level, or a negative number.
        """
        with loading():
            from ._reading import intact  # noqa: PLC0415  most processes only record

        find = functools.partial(
            self._asked.find, EventFilter.of(conditions), require("limit", limit, at_least=0, whole=True)
        )
        return intact(await self._own_records.reading(self.log_event, "get_events", dict(conditions), find))

    @overload
    def events(
        self,
        *,
        oldest_first: bool = False,
        on_damage: Literal["log", "raise"] = "log",
        **conditions: Unpack[Conditions],
    ) -> Events[AuditEvent]: ...

    @overload
    def events(
        self, *, oldest_first: bool = False, on_damage: Literal["yield"], **conditions: Unpack[Conditions]
    ) -> Events[AuditEvent | DamagedRecord]: ...

    def events(
        self,
        *,
        oldest_first: bool = False,
        on_damage: Literal["log", "raise", "yield"] = "log",
        **conditions: Unpack[Conditions],
    ) -> AsyncIterator[Any]:
        """
        Return stored events that meet all conditions, page by page: ``async for event in trail.events(user_id="a")``.

        However many there are, memory does not grow with them. Events that are stored meanwhile are among them if the
        oldest come first.

        Where lines of the files were moved, every record that is whole is among them once, in the order in which they
        stand: one that stands twice is left out the second time, for which the numbers are kept in memory. A question
        with *after* or *before* may miss records that stand far from their numbers. Where records are missing or out of
        place between two events there is a `DamagedRecord`; between records that are not asked for, only
        `verify_chain_from_storage` sees that.

        Args:
            oldest_first: Whether to begin with the oldest, and not with the newest.
            on_damage: How to treat records that can't be read, and that may be among them, or are missing: "log" leaves
                them out with one warning, "raise" raises `AuditStorageError` at the first, and "yield" yields a
                `DamagedRecord` in their place. Reading continues behind them.
            **conditions: As for `get_events`, and raises as that does.
        """
        with loading():
            from ._reading import Events  # noqa: PLC0415

        return Events(
            self._asked,
            EventFilter.of(conditions),
            oldest_first=oldest_first,
            on_damage=on_damage,
            noting=functools.partial(self._own_records.reading, self.log_event, "events", dict(conditions)),
        )

    @without_frames
    async def count_by(self, field: str, **conditions: Unpack[Conditions]) -> dict[str, int]:
        """
        Count the events that meet all conditions by one of their members, the most frequent value first.

        Args:
            field: A member of `AuditEvent`, such as "user_id" or "target.type", or "metadata." and the path of a value
                in the metadata, with dots between its names, as in "metadata.http.status".
            **conditions: As for `get_events`.

        Returns:
            The number of events by value, as text. A target is TYPE/ID, and a value that is no text its JSON. Events
            without a value are under "".

        Raises:
            AuditStorageError: The trail can't be read.
            TypeError: As for `get_events`, or *field* is no text.
            ValueError: As for `get_events`, or events have no such member; the message has the nearest.
        """
        with loading():
            from ._reading import Events, counted, member_of_events  # noqa: PLC0415

        value_of = member_of_events(field)
        events: Events[AuditEvent] = Events(self._asked, EventFilter.of(conditions), oldest_first=False)
        count = functools.partial(counted, events, value_of)
        return await self._own_records.reading(self.log_event, "count_by", {**conditions, "field": field}, count)

    async def head(self) -> ChainHead:
        """
        Return the number and the checksum of the newest stored event.

        Kept out of reach of the service, a head proves later that the trail was neither cut nor replaced; see `holds`.

        Raises:
            AuditStorageError: The trail can't be read.
        """
        return await head_of(self._storage)

    async def holds(self, head: ChainHead) -> bool:
        """
        Return whether the trail still holds the record that was the newest when *head* was taken.

        If so, and if a verification finds the trail valid, every record up to that one is unchanged, since its checksum
        depends on all records before it. If not, the trail was cut off before that record, or replaced.

        Args:
            head: A result of `head`; every trail holds the head of an empty one.

        Raises:
            AuditStorageError: The trail can't be read.
            TypeError: It is no `ChainHead`.
        """
        return await holds(self._storage, require_kind("head", head, ChainHead))

    @classmethod
    def verify_chain(cls, events: Iterable[AuditEvent], *, after: ChainHead = EMPTY) -> AuditChainVerificationResult:
        """
        Check *events*, given in order and without gaps, as `verify_chain_from_storage` would.

        Damage is returned, not raised. Missing newest events can't be seen from inside a chain.

        Args:
            events: The events; of one that a later fapilog wrote, the record.
            after: The head of the trail before the first of them; by default they begin with the trail.

        Raises:
            TypeError: One of them is no event, or *after* is no head.
        """
        given = _events(events)
        first = list(itertools.islice(given, 2))
        result = chain.verified(itertools.chain(first, given), require_kind("after", after, ChainHead))
        if not result.valid and _is_newest_first(first):
            words = f"{result.error_message}; they are the newest first, as get_events returns them: reverse them"
            result = msgspec.structs.replace(result, error_message=words)
        return result

    async def verify_chain_from_storage(
        self, progress: Callable[[int], None] | None = None
    ) -> AuditChainVerificationResult:
        """
        Check every stored event, while new events are being written.

        Damage is returned, not raised; it is an incident of the trail all the same. Events cut off the very end can't
        be seen from inside a chain.

        Args:
            progress: Called now and then, in a worker thread, with the number of events checked so far.

        Raises:
            AuditStorageError: The trail can't be read.
            TypeError: *progress* can't be called with a number, or is asynchronous.
        """
        expected = "a function of the number of events"
        require_callable("progress", progress, expected=expected, takes=1, or_none=True)
        try:
            with contained():
                result = await self._storage.verify(progress)
        except Exception as error:
            self._alerts.health.failing(VERIFICATION, error)
            await self._alerts.send_own()
            raise
        self._alerts.health.verified(result)
        await self._alerts.send_own()
        return result


def _events(given: Iterable[AuditEvent]) -> Iterator[AuditEvent]:
    if not isinstance(given, Iterable):
        raise TypeError(f"events: expected AuditEvents, the oldest first; got {kind_of(given)}")
    for event in given:
        if not isinstance(event, AuditEvent):
            raise TypeError(f"events: expected AuditEvents; got {kind_of(event)} among them")
        yield event


def _is_newest_first(events: Sequence[AuditEvent]) -> bool:
    numbers = [event.sequence_number or 0 for event in events]
    return len(numbers) > 1 and numbers[0] == numbers[1] + 1
