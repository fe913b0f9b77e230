"""The events that the trail records: `AuditEvent`."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Self, TypeAlias

import msgspec
from msgspec.structs import force_setattr

from .errordetails import ErrorDetails
from .freezing import frozen_mapping
from .kinds import AuditEventType, AuditLogLevel, AuditOutcome, ComplianceLevel, member
from .limit import within_limit
from .parties import Actor, Target, encodable
from .privacy import Discreet
from .times import Moment, Standard, standard_now
from .values import NO_METADATA, FrozenDict, kind_of, name_of, tags, text

__all__ = [
    "FORMAT_VERSION",
    "PERSONAL",
    "AuditEvent",
    "Draft",
    "Identity",
    "data_event_type",
    "handed_out",
    "identity_of",
    "in_utc",
]

FORMAT_VERSION: Final = 2
"""The format version of the records that this version writes."""


# The random ends of the next ids. Every call of `os.urandom` gives up the interpreter lock, and a thread that takes it
# would commit the first event of many that are being logged, alone. A list, whose `pop` any thread may call.
_ends: Final[list[str]] = []
_ENDS_AT_ONCE: Final = 256
# Otherwise a forked child would give the ids that its parent gives.
os.register_at_fork(after_in_child=_ends.clear)
# Of the bytes 6 and 8: https://www.rfc-editor.org/rfc/rfc9562.html#section-5.7
_VERSION: Final = bytes(0x70 | byte & 0x0F for byte in range(256))
_VARIANT: Final = bytes(0x80 | byte & 0x3F for byte in range(256))


def _new_id() -> str:
    """
    Return a UUID of version 7 of RFC 9562, as text, which begins with the time in milliseconds.

    New ids stand together in the index of a database: of random ones, each would change another page of it.
    """
    try:
        end = _ends.pop()
    except IndexError:
        random = bytearray(os.urandom(10 * _ENDS_AT_ONCE))
        random[0::10] = random[0::10].translate(_VERSION)
        random[2::10] = random[2::10].translate(_VARIANT)
        digits = [random[start : start + 10].hex() for start in range(0, len(random), 10)]
        end, *others = [f"-{each[:4]}-{each[4:8]}-{each[8:]}" for each in digits]
        _ends.extend(others)
    return _beginning(time.time_ns() // 1_000_000) + end


@functools.lru_cache(maxsize=1)
def _beginning(milliseconds: int) -> str:
    return f"{milliseconds >> 16 & 0xFFFF_FFFF:08x}-{milliseconds & 0xFFFF:04x}"


class _Record(Discreet, frozen=True, kw_only=True, tag_field="v", omit_defaults=True, forbid_unknown_fields=True):
    """
    The members that are written as a record.

    A member that has its default is left out. A member that every reader needs is always written: its default is made
    by a factory, which msgspec does not compare with.
    """


class AuditEvent(_Record, frozen=True, kw_only=True, tag=FORMAT_VERSION):
    """
    One event of the trail.

    An event, its metadata included, can't be changed: every receiver of an alert sees the stored event. The metadata
    are JSON values. Any other value becomes one when the event is made: a mapping, and an object whose class says its
    fields, an object; dates, UUIDs, decimals, bytes and enums as msgspec encodes them; NaN, infinities and everything
    else its `repr`; an integer of more than 1024 bits hexadecimal text; a lone surrogate in any text its escape; and a
    value that can't be read a text that says so. The trail cuts texts that are too long for its policy.

    Its `repr` shows id, type, level and sequence number alone: a crash reporter may print it.

    Attributes:
        event_id: UUID of version 7, as 36 characters of text, or as given. The same in every alert about the event.
        timestamp: When the event was recorded; aware, in UTC.
        occurred: When it happened, if that is another time, as in an import; aware, in UTC.
        event_type: The kind of event.
        log_level: The severity.
        outcome: The outcome of the attempt; None if it was not given.
        message: The event in words.
        reason: Why it was done, or was denied: a ticket, the words of an emergency access.
        component: The part of the service.
        operation: The operation of that part.
        actor: The user, service or job that acted, if more than the user's id is known.
        user_id: The user: the actor's id.
        session_id: The user's session.
        request_id: The request.
        trace_id: The distributed trace, as OpenTelemetry writes it: 32 hexadecimal digits.
        span_id: The span in that trace: 16 hexadecimal digits.
        client_ip: The user's address.
        user_agent: The user's program.
        target: The object of the action.
        changes: The changed fields of the target, with the old value and the new one.
        hostname: The machine that recorded it.
        process_id: The process that recorded it.
        error: The exception behind it, if there is one.
        data_classification: For example "public", "internal", "confidential", "restricted".
        contains_pii: Whether it contains personal data.
        contains_phi: Whether it contains health data.
        compliance_level: The level of the policy in force.
        regulatory_tags: Tags of your own, for example the number of a requirement.
        metadata: Everything else that was given.
        truncated: The members that were cut; a member of the metadata as ``metadata.NAME``.
        not_announced: Why it was not announced, if it meets the policy and was not; written by the trail alone.
        sequence_number: Its place in the chain, counted from 1; None until it is stored.
        previous_hash: The checksum of the event before it; None for the first, and until it is stored.
        checksum: SHA-256 of the stored bytes up to the checksum, in hex; None until it is stored.
        format_version: The format of its record.
        line: Its record, if a later version of fapilog wrote something in it that this version does not know; else
            None. `unknown` has the members.
    """

    _shown = ("event_id", "event_type", "log_level", "sequence_number")

    event_id: str = msgspec.field(default_factory=_new_id)
    timestamp: Moment = msgspec.field(default_factory=standard_now)
    occurred: Moment | None = None
    event_type: AuditEventType
    log_level: AuditLogLevel = msgspec.field(default_factory=lambda: AuditLogLevel.INFO)
    outcome: AuditOutcome | None = None
    message: str
    reason: str | None = None
    component: str | None = None
    operation: str | None = None
    actor: Actor | None = None
    user_id: str | None = None
    session_id: str | None = None
    request_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    client_ip: str | None = None
    user_agent: str | None = None
    target: Target | None = None
    changes: Mapping[str, Any] = NO_METADATA
    hostname: str | None = None
    process_id: int | None = None
    error: ErrorDetails | None = None
    data_classification: str | None = None
    contains_pii: bool = False
    contains_phi: bool = False
    compliance_level: ComplianceLevel = msgspec.field(default_factory=lambda: ComplianceLevel.BASIC)
    regulatory_tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = NO_METADATA
    truncated: tuple[str, ...] = ()
    not_announced: str | None = None
    sequence_number: int | None = None
    previous_hash: str | None = None
    checksum: str | None = None
    format_version: int = FORMAT_VERSION
    line: bytes | None = None

    def __post_init__(self) -> None:
        """
        Make the given values storable, and immutable.

        Raises:
            TypeError: A time is no datetime.
            ValueError: An unknown type, level or outcome, or a time without a time zone.
        """
        # Every event that is logged or read comes by here, and nearly all have enum members and a time in UTC.
        if not (
            type(self.event_type) is AuditEventType
            and type(self.log_level) is AuditLogLevel
            and type(self.compliance_level) is ComplianceLevel
            and (self.outcome is None or type(self.outcome) is AuditOutcome)
        ):
            _take_members(self)
        if not (type(self.timestamp) is Standard.datetime and self.timestamp.tzinfo is UTC):
            force_setattr(self, "timestamp", in_utc("timestamp", self.timestamp))
        if self.occurred is not None:
            force_setattr(self, "occurred", in_utc("occurred", self.occurred))
        if not _is_plain(
            self.event_id,
            self.message,
            self.reason,
            self.component,
            self.operation,
            self.user_id,
            self.session_id,
            self.request_id,
            self.trace_id,
            self.span_id,
            self.client_ip,
            self.user_agent,
            self.hostname,
            self.data_classification,
            self.not_announced,
            self.previous_hash,
            self.checksum,
        ):
            _make_texts(self)
        if self.actor is not None:
            force_setattr(self, "actor", encodable(Actor.of(self.actor)))
        if self.target is not None:
            force_setattr(self, "target", encodable(Target.of(self.target)))
        if type(self.metadata) is not FrozenDict:
            force_setattr(self, "metadata", frozen_mapping(self.metadata) or NO_METADATA)
        if type(self.changes) is not FrozenDict:
            force_setattr(self, "changes", frozen_mapping(self.changes) or NO_METADATA)
        # An object of others is not asked whether it is empty.
        given, cuts = self.regulatory_tags, self.truncated
        if type(given) is not tuple or type(cuts) is not tuple or given or cuts:
            force_setattr(self, "regulatory_tags", tags(self.regulatory_tags))
            force_setattr(self, "truncated", tags(self.truncated))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @property
    def unknown(self) -> dict[str, Any]:
        """The members of its record that a later version of fapilog wrote, and this version can't take."""
        if self.line is None:
            return {}
        stored: dict[str, Any] = msgspec.json.decode(self.line)
        taken = msgspec.to_builtins(self)
        return {name: value for name, value in stored.items() if name != "v" and taken.get(name) != value}


class Draft(AuditEvent, frozen=True, kw_only=True, tag=FORMAT_VERSION):
    """An event that was made of storable values, does not check them again, and is written as any other."""

    def __post_init__(self) -> None:
        """Check nothing."""


def handed_out(event: AuditEvent) -> AuditEvent:
    """Return *event* for code that is not ours, which gets no draft."""
    return AuditEvent(**msgspec.structs.asdict(event)) if type(event) is Draft else event


Identity: TypeAlias = tuple[str, int | None]
"""The id of an event, and the number of its record: a trail in files may have an id again after a while."""


def identity_of(event: AuditEvent) -> Identity:
    """Return what no other event of a trail has."""
    return event.event_id, event.sequence_number


PERSONAL: Final = (
    "message",
    "reason",
    "actor",
    "user_id",
    "session_id",
    "client_ip",
    "user_agent",
    "target",
    "changes",
    "error",
    "metadata",
)
"""The members of an event that may hold personal data."""


_ENUMS: Final[dict[str, type[Enum]]] = {
    "event_type": AuditEventType,
    "log_level": AuditLogLevel,
    "compliance_level": ComplianceLevel,
    "outcome": AuditOutcome,
}


def _take_members(event: AuditEvent) -> None:
    for name, kind in _ENUMS.items():
        value = getattr(event, name)
        if value is not None or name != "outcome":
            force_setattr(event, name, member(kind, value, name))


def _make_texts(event: AuditEvent) -> None:
    for name, may_be_none in _TEXTS.items():
        value = getattr(event, name)
        if value is not None or not may_be_none:
            force_setattr(event, name, text(value))


def in_utc(name: str, given: object, *, is_bound: bool = False) -> datetime:
    """
    Return the time *given* in UTC.

    Args:
        name: The text that the message of an error begins with.
        given: The time.
        is_bound: Whether it bounds a question: `datetime.min` in a zone before UTC, which is in the year 0 there, is
            then the first moment of the calendar, and `datetime.max` the last one.

    Raises:
        TypeError: It is no datetime.
        ValueError: It has no time zone, or none that can be asked, or is in no year of UTC from 1 to 9999.
    """
    if type(given) is Standard.datetime and given.tzinfo is UTC:
        return given
    # Not by `isinstance`, which trusts an object's own `__class__`.
    if not issubclass(type(given), datetime):
        raise TypeError(f"{name}: expected a datetime with a time zone; got {kind_of(given)}")
    time: Any = given
    try:
        found = within_limit(_in_utc, time)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        if is_bound and isinstance(error, OverflowError):
            end = datetime.min if time.year == datetime.min.year else datetime.max  # noqa: DTZ901
            return end.replace(tzinfo=UTC)
        kind = name_of(type(error))
        raise ValueError(f"{name}: expected a time that there is in UTC; asking for it raised {kind}") from None
    if found is None:
        raise ValueError(f"{name}: expected a datetime with a time zone; got one without")
    return found


def _in_utc(time: datetime) -> datetime | None:
    # Of a subclass, the time that it is and not the one that its methods make. Without an offset, `astimezone` would
    # take the zone of this machine.
    kind = Standard.datetime
    if kind.utcoffset(time) is None:
        return None
    return kind.fromisoformat(kind.isoformat(kind.astimezone(time, UTC))).replace(tzinfo=UTC)


_DATA_TYPES: Final = {
    "write": AuditEventType.DATA_MODIFICATION,
    "update": AuditEventType.DATA_MODIFICATION,
    "delete": AuditEventType.DATA_DELETION,
    "export": AuditEventType.DATA_EXPORT,
}


def data_event_type(operation: object) -> AuditEventType:
    """Return the type of the event of an operation on data, which is an access unless its name says otherwise."""
    return _DATA_TYPES.get(text(operation).lower(), AuditEventType.DATA_ACCESS)


_TEXTS: Final = {
    name: kind != "str" for name, kind in AuditEvent.__annotations__.items() if kind in ("str", "str | None")
}


# Not the classes: a metaclass may have a `__hash__`.
_PLAIN: Final = frozenset(map(id, (str, type(None))))


def _is_plain(event_id: str, message: str, *others: str | None) -> bool:
    """Return whether all are certainly texts that UTF-8 can carry; all but the first two may be None."""
    # A subclass of str, as a template engine has, is no text to msgspec.
    if type(event_id) is not str or type(message) is not str or not _PLAIN.issuperset(map(id, map(type, others))):
        return False
    return "".join([event_id, message, *filter(None, others)]).isascii()
