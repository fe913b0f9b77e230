"""Finding and counting the events of a trail."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from ..record.damage import DamagedRecord
from ..record.events import AuditEvent
from ..record.options import require
from ..record.privacy import without_frames
from ..storage.protocol import AuditStorage, Conditions, EventFilter
from ._ownrecords import LogEvent, OwnRecords
from ._reading import Events, OnDamage, counted, intact

__all__ = ["Questions"]


class Questions:
    """The methods of `AuditTrail` that find and count events; under PCI DSS every call is recorded."""

    if TYPE_CHECKING:  # the trail's
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
        find = functools.partial(self._asked.find, EventFilter(**conditions), require("limit", limit, at_least=0))
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
        self, *, oldest_first: bool = False, on_damage: OnDamage = "log", **conditions: Unpack[Conditions]
    ) -> Events[Any]:
        """
        Return stored events that meet all conditions, page by page: ``async for event in trail.events(user_id="a")``.

        However many there are, memory does not grow with them. Events that are stored meanwhile are among them if the
        oldest come first.

        Args:
            oldest_first: Whether to begin with the oldest, and not with the newest.
            on_damage: How to treat records that can't be read, and that may be among them: "log" leaves them out with
                one warning, "raise" raises `AuditStorageError` at the first, and "yield" yields a `DamagedRecord` in
                their place. Reading continues behind them.
            **conditions: As for `get_events`, and raises as that does.
        """
        return Events(
            self._asked,
            EventFilter(**conditions),
            oldest_first=oldest_first,
            on_damage=on_damage,
            noting=functools.partial(self._own_records.reading, self.log_event, "events", dict(conditions)),
        )

    @without_frames
    async def count_by(self, field: str, **conditions: Unpack[Conditions]) -> dict[str, int]:
        """
        Count the events that meet all conditions by one of their members, the most frequent value first.

        Args:
            field: A member of `AuditEvent`, such as "user_id", or the path of a value in the metadata.
            **conditions: As for `get_events`, and raises as that does.

        Returns:
            The number of events by value, as text; events without a value are under "".
        """
        events: Events[AuditEvent] = Events(self._asked, EventFilter(**conditions), oldest_first=False)
        count = functools.partial(counted, events, field)
        return await self._own_records.reading(self.log_event, "count_by", {**conditions, "field": field}, count)
