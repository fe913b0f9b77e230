"""The storage that a trail asks for: `AuditStorage`, and the functions that work with any."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from msgspec.structs import force_setattr

from ..record.chain import EMPTY, AuditChainVerificationResult, ChainError, ChainHead, Seal, follow_events
from ..record.events import AuditEvent, AuditEventType, AuditLogLevel, member
from ..record.privacy import Discreet
from ..record.values import escaped, given_text

__all__ = ["AuditStorage", "EventFilter", "head_of", "holds"]


class EventFilter(Discreet, frozen=True, kw_only=True):
    """
    Which events are asked for: those that meet all conditions that are not None.

    Attributes:
        start_time: Not before this time; aware.
        end_time: Not after this time; aware.
        event_type: Of this type.
        log_level: Of this level; no other, also no higher one.
        user_id: By this user, as it was given to the trail.
        component: In this component, as it was given to the trail.
    """

    _shown = ("event_type", "log_level")

    start_time: datetime | None = None
    end_time: datetime | None = None
    event_type: AuditEventType | None = None
    log_level: AuditLogLevel | None = None
    user_id: str | None = None
    component: str | None = None

    def __post_init__(self) -> None:
        """Check the times, and take names for members; raise TypeError or ValueError for other values."""
        for name in ("start_time", "end_time"):
            time = getattr(self, name)
            if time is not None and not isinstance(time, datetime):
                raise TypeError(f"{name}: expected a datetime with a time zone; got a {type(time).__qualname__}")
            if time is not None and time.tzinfo is None:
                raise ValueError(f"{name}: expected a datetime with a time zone; got {time!r}")
        for name, kind in (("event_type", AuditEventType), ("log_level", AuditLogLevel)):
            if getattr(self, name) is not None:
                force_setattr(self, name, member(kind, getattr(self, name), name))
        for name in ("user_id", "component"):
            if getattr(self, name) is not None:
                force_setattr(self, name, escaped(given_text(getattr(self, name))))

    def matches(self, event: AuditEvent) -> bool:
        """Return whether *event* is asked for."""
        return (
            (self.start_time is None or event.timestamp >= self.start_time)
            and (self.end_time is None or event.timestamp <= self.end_time)
            and (self.event_type is None or event.event_type is self.event_type)
            and (self.log_level is None or event.log_level is self.log_level)
            and (self.user_id is None or event.user_id == self.user_id)
            and (self.component is None or event.component == self.component)
        )


class AuditStorage(Protocol):
    """
    One chain of events that is kept for ever.

    Calls may overlap, and come from several threads and event loops. No call may block the event loop. Every method
    raises `AuditStorageError` where the storage fails, and its message names the place and the reason.

    A storage whose methods need no event loop, and block the calling thread where there is none, may say so by an
    attribute ``runs_anywhere = True``: then `AuditTrail.sync` calls it in the calling thread.
    """

    async def append(self, event: AuditEvent) -> Seal:
        """
        Store *event* as the next of the chain.

        Returning means that it is stored. Raising `AuditStorageError` means that it is not, and that its place in the
        chain is free for the next. Cancellation passes; the event may then be stored or not.
        """
        ...

    async def find(self, wanted: EventFilter, limit: int) -> list[AuditEvent]:
        """Return the newest *limit* events that are wanted, the newest first."""
        ...

    async def read(self, after: int, limit: int) -> list[AuditEvent]:
        """
        Return the oldest *limit* events whose sequence number is greater than *after*, the oldest first.

        Only events that are there to stay: none whose `append` may still raise, so that its place would be free again.
        Called page by page, it costs no more at the end of a long chain than at its beginning.
        """
        ...

    async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        """
        Check the whole chain; damage is returned, not raised.

        *progress*, if given, is called now and then with how many events were checked so far, in any thread.
        """
        ...

    async def aclose(self) -> None:
        """Close open files and connections; the next call opens them again."""
        ...


async def head_of(storage: AuditStorage) -> ChainHead:
    """
    Return the number and the checksum of the newest event in *storage*.

    Raises:
        AuditStorageError: The storage can't be read.
    """
    for event in await storage.find(EventFilter(), 1):
        return ChainHead(event.sequence_number or 0, event.checksum)
    return EMPTY


async def holds(storage: AuditStorage, head: ChainHead) -> bool:
    """
    Return whether *storage* holds the record that was the newest when *head* was taken, unchanged.

    Raises:
        AuditStorageError: The storage can't be read.
    """
    number = head.sequence_number
    if number < 1:
        return True
    records = await storage.read(number - 1, 1)
    if [record.checksum for record in records] != [head.checksum]:
        return False
    try:
        follow_events(ChainHead(number - 1, records[0].previous_hash), records)
    except ChainError:  # the record only claims to have that checksum
        return False
    return True
