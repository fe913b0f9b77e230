"""The storage that a trail asks for: `AuditStorage`, and the functions that work with any."""

import copy
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol, Self, TypedDict, runtime_checkable

from msgspec import structs
from msgspec.structs import force_setattr

from ..record.chain import EMPTY, AuditChainVerificationResult, ChainHead, Seal, head_behind
from ..record.damage import DamagedRecord
from ..record.events import AuditEvent, in_utc
from ..record.freezing import Walk
from ..record.intake import LevelName, OutcomeName
from ..record.kinds import AuditEventType, AuditLogLevel, AuditOutcome, member
from ..record.options import did_you_mean, require, require_mapping, several
from ..record.parties import Actor, Target, target_parts
from ..record.privacy import Discreet
from ..record.texts import escaped
from ..record.values import given_text, kind_of, text
from ..tasks.strangers import contained

__all__ = [
    "EQUAL",
    "AuditStorage",
    "Conditions",
    "EventFilter",
    "KeptAlert",
    "head_of",
    "holds",
    "is_head",
    "require_storage",
    "value_at",
]


class Conditions(TypedDict, total=False):
    """The conditions of `AuditTrail.get_events`, `events` and `count_by`; `EventFilter` explains them."""

    start_time: datetime | None
    end_time: datetime | None
    after: int | None
    before: int | None
    event_id: str | None
    event_type: AuditEventType | str | Collection[AuditEventType | str] | None
    log_level: AuditLogLevel | LevelName | None
    min_level: AuditLogLevel | LevelName | None
    message: str | None
    component: str | None
    operation: str | None
    user_id: str | None
    session_id: str | None
    request_id: str | None
    trace_id: str | None
    client_ip: str | None
    outcome: AuditOutcome | OutcomeName | None
    actor: str | None
    target: Target | str | None
    tag: str | None
    metadata: Mapping[str, Any] | None


class EventFilter(Discreet, frozen=True, kw_only=True):
    """
    The conditions of a search: an event must meet all that are not None.

    Attributes:
        start_time: Recorded not before this time; aware. When an event says that it *occurred* is another time.
        end_time: Recorded not after this time; aware.
        after: With a greater sequence number than this: the events after the last one of a page, say.
        before: With a smaller one.
        event_id: With this id.
        event_type: Only events of this type, or of one of several.
        log_level: Only events of this level; no other, also no higher one.
        min_level: Only events of this level or a higher one: debug, info, warning, error, critical, security.
        message: With these words in the message.
        component: In this component.
        operation: In this operation.
        user_id: By this user. A text is asked for as it was given to the trail.
        session_id: In this session.
        request_id: In this request.
        trace_id: In this distributed trace.
        client_ip: From this address.
        outcome: Which ended so.
        actor: By this user, service or job, or on behalf of this user.
        target: On this target, "patient/42". Of a `Target`, the members that are not None.
        tag: With this regulatory tag.
        metadata: With these values in the metadata, each as it was given to the trail; a name may be a path:
            ``{"http.status": 403}``.

    Raises:
        TypeError: A condition is not of its type.
        ValueError: A time without zone, an unknown type, level or outcome, or a number that is negative.
    """

    _shown = ("event_type", "log_level")

    start_time: datetime | None = None
    end_time: datetime | None = None
    after: int | None = None
    before: int | None = None
    event_id: str | None = None
    event_type: AuditEventType | str | Collection[AuditEventType | str] | None = None
    log_level: AuditLogLevel | LevelName | None = None
    min_level: AuditLogLevel | LevelName | None = None
    message: str | None = None
    component: str | None = None
    operation: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    request_id: str | None = None
    trace_id: str | None = None
    client_ip: str | None = None
    outcome: AuditOutcome | OutcomeName | None = None
    actor: str | None = None
    target: Target | str | None = None
    tag: str | None = None
    metadata: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check the values, and take names for members; raise TypeError or ValueError for other values."""
        for name, check in _CHECKS.items():
            if getattr(self, name) is not None:
                force_setattr(self, name, check(name, getattr(self, name)))

    @classmethod
    def of(cls, conditions: Conditions) -> Self:
        """Return the filter with these conditions; raises as it does, and names the nearest of an unknown one."""
        for name in conditions:
            if name not in cls.__struct_fields__:
                raise TypeError(f"there is no condition {name}{did_you_mean(name, cls.__struct_fields__)}")
        return cls(**conditions)

    def numbered(self, *, after: int | None, before: int | None) -> Self:
        """Return this question, asked of records with a greater number than *after* and a smaller one than *before*."""
        # Made anew, its texts would be escaped once more.
        other = copy.copy(self)
        force_setattr(other, "after", after)
        force_setattr(other, "before", before)
        return other

    def matches(self, event: AuditEvent) -> bool:
        """Return whether *event* is asked for."""
        number = event.sequence_number or 0
        return (
            (self.start_time is None or event.timestamp >= self.start_time)
            and (self.end_time is None or event.timestamp <= self.end_time)
            and (self.after is None or number > self.after)
            and (self.before is None or number < self.before)
            and (self.event_type is None or event.event_type in self.event_type)
            and (self.log_level is None or event.log_level is self.log_level)
            and (self.min_level is None or _rank(event.log_level) >= _rank(self.min_level))
            and (self.message is None or self.message in event.message)
            and (self.tag is None or self.tag in event.regulatory_tags)
            and (self.outcome is None or event.outcome is self.outcome)
            and (self.actor is None or self.actor in _actors(event))
            and (self.target is None or _is_on(event.target, Target.of(self.target)))
            and all(getattr(self, name) in {None, getattr(event, name)} for name in EQUAL)
            and all(value_at(event.metadata, path) == value for path, value in (self.metadata or {}).items())
        )


EQUAL: Final = ("event_id", "component", "operation", "user_id", "session_id", "request_id", "trace_id", "client_ip")
"""The conditions that a text of the event must equal; a condition has the name of the member."""

_LEVELS: Final = tuple(AuditLogLevel)


def _rank(level: object) -> int:
    # One that only a later version of fapilog knows is looked at rather than left out.
    return _LEVELS.index(level) if level in _LEVELS else len(_LEVELS)


def _actors(event: AuditEvent) -> tuple[str | None, ...]:
    actor = event.actor
    return (event.user_id,) if actor is None else (event.user_id, actor.id, actor.on_behalf_of)


def _is_on(target: Target | None, wanted: Target) -> bool:
    return target is not None and all(
        value is None or getattr(target, name) == value for name, value in structs.asdict(wanted).items()
    )


def _types(name: str, value: Any) -> tuple[AuditEventType, ...]:
    return tuple(member(AuditEventType, each, name) for each in several(name, value))


def _text(name: str, value: Any) -> str:
    if issubclass(type(value), _NO_TEXT):
        # It would be asked for as Python prints it, and never be found.
        raise TypeError(f"{name}: expected a text; got {kind_of(value)}")
    return escaped(given_text(value))


_NO_TEXT: Final = (dict, list, tuple, set, frozenset, Actor)


def _values(name: str, value: Any) -> dict[str, Any]:
    require_mapping(name, value, expected="a mapping of names to values")
    # As they are stored: who has recorded a UUID asks for that UUID.
    return Walk(lambda each, _: (escaped(each), False)).root(value)


_CHECKS: Final[dict[str, Callable[[str, Any], Any]]] = {
    **dict.fromkeys(["start_time", "end_time"], functools.partial(in_utc, is_bound=True)),
    **dict.fromkeys(["after", "before"], lambda name, value: require(name, value, at_least=0, whole=True)),
    "event_type": _types,
    **dict.fromkeys(["log_level", "min_level"], lambda name, value: member(AuditLogLevel, value, name)),
    "outcome": lambda name, value: member(AuditOutcome, value, name),
    "target": lambda _, value: Target(**{name: escaped(part) for name, part in target_parts(value)[0].items()}),
    **dict.fromkeys(["message", "actor", "tag", *EQUAL], _text),
    # Of printable characters alone, it is stored as it is.
    "event_id": lambda _, value: text(value),
    "metadata": _values,
}


def value_at(metadata: Mapping[str, Any], path: str) -> Any:
    """Return the value in *metadata* that has this name, or is at this path of names with dots between; else None."""
    if path in metadata:
        return metadata[path]
    name, dot, rest = path.partition(".")
    inner = metadata.get(name)
    return value_at(inner, rest) if dot and isinstance(inner, Mapping) else None


class KeptAlert(Discreet, frozen=True):
    """
    An alert that a storage puts into an outbox of its own in the transaction that stores the event.

    Attributes:
        outbox: The name of the outbox.
        severity: The severity that a dispatcher gets.
        channel: The channel that a dispatcher gets.
        event: The event as a dispatcher gets it, but for its place in the chain.
    """

    _shown = ("severity", "event")

    outbox: str
    severity: str
    channel: str | None
    event: AuditEvent


@runtime_checkable
class AuditStorage(Protocol):
    """
    One chain of events that is kept for ever.

    Calls may overlap, and come from several threads and event loops. No call may block the event loop. Every method
    raises `AuditStorageError` where the storage fails, and its message names the place and the reason.

    A storage whose methods need no event loop, and block the calling thread where there is none, may say so by an
    attribute ``runs_anywhere = True``: then `AuditTrail.sync` calls it in the calling thread.

    A storage may have a method ``async def trouble(self) -> str | None``, which a trail calls on start. It returns why
    no event could be stored, if that can be known without storing one, and else None.

    A storage may also have a method ``async def concerns(self) -> Mapping[str, str]``, which a trail calls on start and
    every ten seconds at most, after an event. It returns the conditions that an operator must look after while events
    are still stored: "capacity", little room; "files", a part of the trail that is gone; "clock", times that can't be
    right; "replica", records that are not copied. Every one comes with words that say how to mend it, and without a
    secret; the trail makes an incident of it, until it is not returned.

    A storage for which the oldest records cost much may have a method ``async def last_before(self, time: datetime) ->
    int``: it returns the number of a record up to which no record has that time or a later one, as far as that is
    known, and else 0. A question for later events, the oldest first, begins behind it.

    `AuditTrail.events` reads `find` and `read` page by page, each page from the number of the last event on. A storage
    whose records may stand in another order than their numbers, as lines of files that were moved do, may have a method
    ``async def page_from(self, place: Any, wanted: EventFilter, limit: int, *, oldest_first: bool) -> tuple[Sequence,
    Any]``: it returns what `find` returns, or with *oldest_first* what `read` returns within the numbers that are
    wanted, from a place on; and the place of the next page, None if there is none. The first page has no place, None.

    The `append` of a storage in which a dispatcher keeps its alerts takes *alerts* too, a list of `KeptAlert`, which it
    stores in the same transaction; see `DurableDispatcher`.
    """

    async def append(self, event: AuditEvent, *, once: bool = False) -> Seal | None:
        """
        Store *event* as the next of the chain.

        With *once*, nothing is stored if a record with this event's id is among the newest ones, of any process; the
        storage says how far back it looks. It decides that together with the append, so that of two calls at the same
        time, in any two processes, one stores.

        Returning means that it is stored: now, with its place in the chain, or None if *once* found its id. Raising
        `AuditStorageError` means that it is not, unless the message says that it may be; the next event has the next
        free place in the chain. Cancellation passes; the event may then be stored or not.
        """
        ...

    async def find(self, wanted: EventFilter, limit: int) -> Sequence[AuditEvent | DamagedRecord]:
        """
        Return the newest *limit* events that are wanted, the newest first.

        One bad record hides nothing: a record that can't be read, and that may be wanted, is a `DamagedRecord` in its
        place, beyond the limit. Several in a row are one, so that they take no more memory than the events.
        """
        ...

    async def read(self, after: int, limit: int) -> Sequence[AuditEvent | DamagedRecord]:
        """
        Return the oldest *limit* events whose sequence number is greater than *after*, the oldest first.

        Only events that are there to stay: none whose `append` may still raise, so that its place would be free again.
        Called page by page, it costs no more at the end of a long chain than at its beginning. Records that can't be
        read are as `find` has them; such records behind the last event are in every page.
        """
        ...

    async def read_lines(self, after: int, limit: int) -> list[bytes]:
        """
        Return the oldest *limit* records whose sequence number is greater than *after*, the oldest first, as stored.

        The same records as `read` returns, in the same order: without their newlines, the very bytes that their
        checksums are of. A line without a sequence number is left out; an altered record is not. `record.chain.follow`
        checks them.
        """
        ...

    async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        """
        Check the whole chain; damage is returned, not raised.

        *progress*, if given, is called now and then with how many events were checked so far, in any thread.
        """
        ...

    async def aclose(self) -> None:
        """Close open files and connections; the next call opens them again. A trail cancels it after five seconds."""
        ...


def require_storage(option: str, storage: AuditStorage) -> AuditStorage:
    """
    Return *storage* if it can be one.

    Raises:
        TypeError: It is a class, or lacks a method of `AuditStorage`; the message begins with *option*.
    """
    if isinstance(storage, type):
        raise TypeError(f"{option}: expected an AuditStorage; got {kind_of(storage)}")
    lacking = [name for name in _METHODS if not callable(getattr(storage, name, None))]
    if lacking:
        raise TypeError(f"{option}: expected an AuditStorage; got {kind_of(storage)} without {', '.join(lacking)}")
    return storage


_METHODS: Final = ("append", "find", "read", "read_lines", "verify", "aclose")


async def head_of(storage: AuditStorage) -> ChainHead:
    """
    Return the number and the checksum of the newest record in *storage* that can be read.

    Of a record that only this version does not understand, both can be read.

    Raises:
        AuditStorageError: The storage can't be read.
    """
    with contained():
        found = await storage.find(EventFilter(), 1)
    for item in found:
        if isinstance(item, AuditEvent):
            return ChainHead(item.sequence_number or 0, item.checksum)
        if item.head is not None:
            return item.head
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
    with contained():
        lines = await storage.read_lines(number - 1, 1)
    return is_head(lines, head)


def is_head(lines: Sequence[bytes], head: ChainHead) -> bool:
    """Return whether *lines* are one record, which makes *head*."""
    # The record may only claim to have that checksum.
    return [head_behind(line) for line in lines] == [head]
