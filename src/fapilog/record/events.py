"""The events that the trail records: `AuditEvent` and its enums."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, NamedTuple, Self, TypeVar, cast

import msgspec
from msgspec.structs import force_setattr

from .freezing import frozen_mapping
from .options import did_you_mean
from .privacy import Discreet
from .values import NO_METADATA, FrozenDict, cut, given_text, name_of, tags, text, unreadable

__all__ = [
    "MAX_REPEATED",
    "MAX_TRACEBACK",
    "AuditEvent",
    "AuditEventType",
    "AuditLogLevel",
    "ComplianceLevel",
    "Described",
    "ErrorDetails",
    "data_event_type",
    "described",
    "in_short",
    "is_error",
    "is_security",
    "member",
]

# The end of a traceback has the failure; a deep recursion must not fill the disk.
MAX_TRACEBACK: Final = 32_768
# The text of an error is in a traceback too, and in the message of `log_error`: a longer one is there in short.
MAX_REPEATED: Final = 1024


class AuditEventType(str, Enum):
    """The kind of event."""

    ERROR_OCCURRED = "error_occurred"
    ERROR_RECOVERED = "error_recovered"
    ERROR_ESCALATED = "error_escalated"
    AUTHENTICATION_FAILED = "authentication_failed"
    AUTHORIZATION_FAILED = "authorization_failed"
    SECURITY_VIOLATION = "security_violation"
    SYSTEM_STARTUP = "system_startup"
    SYSTEM_SHUTDOWN = "system_shutdown"
    COMPONENT_FAILURE = "component_failure"
    COMPONENT_RECOVERY = "component_recovery"
    DATA_ACCESS = "data_access"
    DATA_MODIFICATION = "data_modification"
    DATA_DELETION = "data_deletion"
    DATA_EXPORT = "data_export"
    CONFIG_CHANGED = "config_changed"
    PLUGIN_LOADED = "plugin_loaded"
    PLUGIN_UNLOADED = "plugin_unloaded"
    COMPLIANCE_CHECK = "compliance_check"
    AUDIT_LOG_ACCESS = "audit_log_access"
    RETENTION_POLICY_APPLIED = "retention_policy_applied"


class AuditLogLevel(str, Enum):
    """How severe it is. Its value is the severity that a dispatcher is given."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"
    SECURITY = "security"


class ComplianceLevel(str, Enum):
    """The regulation that the service is under."""

    NONE = "none"
    BASIC = "basic"
    SOX = "sox"
    HIPAA = "hipaa"
    GDPR = "gdpr"
    PCI_DSS = "pci_dss"
    SOC2 = "soc2"
    ISO27001 = "iso27001"


E = TypeVar("E", bound=Enum)
# Of a value, in a message about it.
_LONGEST_SHOWN: Final = 200


# The levels of the standard library's loggers, by which most code knows them.
_STANDARD: Final = {
    logging.DEBUG: AuditLogLevel.DEBUG,
    logging.INFO: AuditLogLevel.INFO,
    logging.WARNING: AuditLogLevel.WARNING,
    logging.ERROR: AuditLogLevel.ERROR,
    logging.CRITICAL: AuditLogLevel.CRITICAL,
}


def member(kind: type[E], value: object, name: str) -> E:
    """
    Return the member of the enum *kind* that *value* is or names, in lower or upper case.

    A log level may be one of the standard library's: `logging.WARNING`.

    Raises:
        ValueError: There is none. The message has the values that *name* takes, the one that came, and the nearest.
    """
    if type(value) is kind:
        return value
    try:
        return kind(value)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        values = {str(each.value): each for each in kind}
    given: object = str.lower(value) if isinstance(value, str) else value
    found = values.get(given) if type(given) is str else None
    if found is None and kind is AuditLogLevel and type(given) is int:
        found = cast("E | None", _STANDARD.get(given))
    if found is None:
        nearest = did_you_mean(given, values) if type(given) is str else ""
        raise ValueError(f"{name}: expected one of {', '.join(values)}; got {_shown(value)}{nearest}")
    return found


def _shown(value: object) -> str:
    try:
        return text(repr(value))[:_LONGEST_SHOWN]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return unreadable(value, error)


class ErrorDetails(Discreet, frozen=True, kw_only=True):
    """
    An exception, as it is kept in an event.

    Whatever is given becomes text, with a lone surrogate as its escape. Its `repr` shows the type alone.

    Attributes:
        type: Qualified name of its class.
        message: Its text.
        traceback: As Python prints it, with causes; of a very long one only the end.
    """

    _shown = ("type",)

    type: str
    message: str
    traceback: str = ""

    def __post_init__(self) -> None:
        """Make the given values storable."""
        for name in self.__struct_fields__:
            force_setattr(self, name, text(getattr(self, name)))

    @classmethod
    def of(cls, error: object) -> Self:
        """Describe *error*; an object that is no exception by its type and text."""
        kind, message, trace = described(error)
        return cls(type=kind, message=message, traceback=cut(text(trace), MAX_TRACEBACK, keep_end=True))


class Described(NamedTuple):
    """An exception with its texts whole, and with the lone surrogates that they have."""

    type: str
    message: str
    traceback: str


def described(error: object) -> Described:
    """Describe *error*; an object that is no exception by its type and text."""
    kind = type(error)
    module = _module(kind)
    name = name_of(kind) if module == "builtins" else f"{module}.{name_of(kind)}"
    message = given_text(error)
    trace = _traceback(error, f"{name}: {message}") if issubclass(kind, BaseException) else ""
    return Described(name, message, trace.replace(message, in_short(message)) if len(message) > MAX_REPEATED else trace)


def in_short(message: str) -> str:
    """Return *message*, the text of an error that is recorded whole elsewhere, or the beginning of a long one."""
    return cut(message, MAX_REPEATED)


def _module(kind: type) -> str:
    try:
        return given_text(type.__dict__["__module__"].__get__(kind))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return unreadable(kind, error)


def _traceback(error: Any, last_line: str) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as failure:
        # A SyntaxError that a template engine made of what is no text, for example.
        why = unreadable(error, failure)
    try:
        frames = "".join(traceback.format_tb(error.__traceback__))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        frames = ""
    return f"{frames}{last_line}\n{why}\n"


# Hexadecimal digits for the next ids. Each call of `os.urandom` gives up the interpreter lock, and a thread that takes
# it would commit the first event of many that are being logged, alone. A list, whose `pop` any thread may call.
_digits: Final[list[str]] = []
_IDS_AT_ONCE: Final = 256
# Otherwise a forked child would give the ids that its parent gives.
os.register_at_fork(after_in_child=_digits.clear)


def _random_uuid() -> str:
    """Return a random UUID, version 4 of RFC 9562, as text; `uuid.uuid4` takes longer than the rest of the event."""
    try:
        digits = _digits.pop()
    except IndexError:
        random = os.urandom(16 * _IDS_AT_ONCE).hex()
        _digits.extend(random[start : start + 32] for start in range(32, len(random), 32))
        digits = random[:32]
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


class AuditEvent(Discreet, frozen=True, kw_only=True, tag_field="v", tag=1):
    """
    One event of the trail.

    An event, its metadata included, can't be changed: every receiver of an alert sees the stored event. The metadata
    are JSON values. Any other value becomes one when the event is made: a mapping, and an object whose class says its
    fields, an object; dates, UUIDs, decimals, bytes and enums what msgspec makes of them; NaN, infinities and
    everything else its `repr`; an integer of more than 1024 bits hexadecimal text; a lone surrogate in any text its
    escape; and a value that can't be read a text that says so. The trail cuts texts that are too long for its policy.

    Its `repr` shows id, type, level and sequence number alone: a crash reporter may print it.

    Attributes:
        event_id: UUID, as 36 characters of text. The same in every alert about the event.
        timestamp: When it happened; aware, in UTC.
        event_type: The kind of event.
        log_level: The severity.
        message: The event in words.
        component: The part of the service.
        operation: The operation of that part.
        user_id: The user.
        session_id: The user's session.
        request_id: The request.
        client_ip: The user's address.
        user_agent: The user's program.
        hostname: The machine that recorded it.
        process_id: The process that recorded it.
        error: The exception behind it, if there is one.
        data_classification: For example "public", "internal", "confidential", "restricted".
        contains_pii: Whether it contains personal data.
        contains_phi: Whether it contains health data.
        compliance_level: The level of the policy in force.
        regulatory_tags: Tags of your own, for example the number of a requirement.
        metadata: Everything else that was given.
        sequence_number: Its place in the chain, counted from 1; None until it is stored.
        previous_hash: The checksum of the event before it; None for the first, and until it is stored.
        checksum: SHA-256 of the stored bytes up to the checksum, in hex; None until it is stored.
    """

    _shown = ("event_id", "event_type", "log_level", "sequence_number")

    event_id: str = msgspec.field(default_factory=_random_uuid)
    timestamp: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))
    event_type: AuditEventType
    log_level: AuditLogLevel = AuditLogLevel.INFO
    message: str
    component: str | None = None
    operation: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    request_id: str | None = None
    client_ip: str | None = None
    user_agent: str | None = None
    hostname: str | None = None
    process_id: int | None = None
    error: ErrorDetails | None = None
    data_classification: str | None = None
    contains_pii: bool = False
    contains_phi: bool = False
    compliance_level: ComplianceLevel = ComplianceLevel.BASIC
    regulatory_tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = msgspec.field(default_factory=lambda: NO_METADATA)
    sequence_number: int | None = None
    previous_hash: str | None = None
    checksum: str | None = None

    def __post_init__(self) -> None:
        """
        Make the given values storable, and immutable.

        Raises:
            TypeError: The timestamp is no datetime.
            ValueError: An unknown type or level, or a timestamp without a time zone.
        """
        # Each event that is logged or read comes by here, and nearly every one has members and a time in UTC.
        if not (
            type(self.event_type) is AuditEventType
            and type(self.log_level) is AuditLogLevel
            and type(self.compliance_level) is ComplianceLevel
        ):
            for name, kind in _ENUMS.items():
                force_setattr(self, name, member(kind, getattr(self, name), name))
        if getattr(self.timestamp, "tzinfo", None) is not UTC:
            force_setattr(self, "timestamp", _in_utc(self.timestamp))
        if not _is_plain(
            self.event_id,
            self.message,
            self.component,
            self.operation,
            self.user_id,
            self.session_id,
            self.request_id,
            self.client_ip,
            self.user_agent,
            self.hostname,
            self.data_classification,
            self.previous_hash,
            self.checksum,
        ):
            for name, may_be_none in _TEXTS.items():
                value = getattr(self, name)
                if value is not None or not may_be_none:
                    force_setattr(self, name, text(value))
        if type(self.metadata) is not FrozenDict:
            force_setattr(self, "metadata", frozen_mapping(self.metadata))
        if type(self.regulatory_tags) is not tuple or self.regulatory_tags:
            force_setattr(self, "regulatory_tags", tags(self.regulatory_tags))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


_ENUMS: Final[dict[str, type[Enum]]] = {
    "event_type": AuditEventType,
    "log_level": AuditLogLevel,
    "compliance_level": ComplianceLevel,
}


def _in_utc(given: object) -> datetime:
    if not isinstance(given, datetime):
        raise TypeError(f"timestamp: expected a datetime with a time zone; got a {name_of(type(given))}")
    if given.tzinfo is None:
        raise ValueError(f"timestamp: expected a datetime with a time zone; got {given!r}")
    return given.astimezone(UTC)


_DATA_TYPES: Final = {
    "write": AuditEventType.DATA_MODIFICATION,
    "update": AuditEventType.DATA_MODIFICATION,
    "delete": AuditEventType.DATA_DELETION,
    "export": AuditEventType.DATA_EXPORT,
}
# Tuples, in which a member is found without its hash, which for an enum is slow: each event is looked at.
_ERROR_LEVELS: Final = (AuditLogLevel.ERROR, AuditLogLevel.CRITICAL)
_SECURITY_TYPES: Final = (
    AuditEventType.AUTHENTICATION_FAILED,
    AuditEventType.AUTHORIZATION_FAILED,
    AuditEventType.SECURITY_VIOLATION,
)


def data_event_type(operation: object) -> AuditEventType:
    """Return the type of the event of an operation on data, which is an access unless its name says otherwise."""
    return _DATA_TYPES.get(text(operation).lower(), AuditEventType.DATA_ACCESS)


def is_error(event: AuditEvent) -> bool:
    """Return whether *event* counts as an error."""
    return event.event_type is AuditEventType.ERROR_OCCURRED or event.log_level in _ERROR_LEVELS


def is_security(event: AuditEvent) -> bool:
    """Return whether *event* counts as a security event."""
    return event.log_level is AuditLogLevel.SECURITY or event.event_type in _SECURITY_TYPES


_TEXTS: Final = {
    name: kind != "str" for name, kind in AuditEvent.__annotations__.items() if kind in ("str", "str | None")
}


_PLAIN: Final = {str, type(None)}


def _is_plain(event_id: str, message: str, *others: str | None) -> bool:
    """Return whether all are certain to be texts that UTF-8 can carry; the *others* may be None."""
    # A subclass of str, as a template engine has, is no text to msgspec.
    if type(event_id) is not str or type(message) is not str or not _PLAIN.issuperset(map(type, others)):
        return False
    return "".join([event_id, message, *filter(None, others)]).isascii()
