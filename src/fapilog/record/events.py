"""The events that the trail records: `AuditEvent` and its enums."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Self, TypeVar

import msgspec
from msgspec.structs import force_setattr

from .privacy import Discreet
from .values import NO_METADATA, FrozenDict, frozen_mapping, tags, text

__all__ = [
    "MAX_TRACEBACK",
    "AuditEvent",
    "AuditEventType",
    "AuditLogLevel",
    "ComplianceLevel",
    "ErrorDetails",
    "data_event_type",
    "is_error",
    "is_security",
    "member",
]

# The end of a traceback has the failure; a deep recursion must not fill the disk.
MAX_TRACEBACK: Final = 32_768


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


def member(kind: type[E], value: object, name: str) -> E:
    """
    Return the member of the enum *kind* that *value* is or names.

    Raises:
        ValueError: There is none. The message has the values that *name* takes, and the one that came.
    """
    if type(value) is kind:
        return value
    try:
        return kind(value)
    except ValueError:
        expected = ", ".join(str(each.value) for each in kind)
        raise ValueError(f"{name}: expected one of {expected}; got {value!r}") from None


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
        kind = type(error)
        lines = traceback.format_exception(error) if isinstance(error, BaseException) else []
        return cls(
            type=kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}",
            message=text(error),
            traceback="".join(lines)[-MAX_TRACEBACK:],
        )


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
    are JSON values. Any other value becomes one when the event is made: a value that msgspec can encode (dates, UUIDs,
    decimals, enums, dataclasses) as msgspec encodes it, NaN, infinities and everything else as its `repr`, an integer
    of more than 1024 bits as hexadecimal text, and a lone surrogate in any text as its escape.

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
        """Make the given values storable, and immutable; raise ValueError for a naive timestamp."""
        if self.timestamp.tzinfo is not UTC:
            if self.timestamp.tzinfo is None:
                raise ValueError(f"timestamp: expected a datetime with a time zone; got {self.timestamp!r}")
            force_setattr(self, "timestamp", self.timestamp.astimezone(UTC))
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
        if self.regulatory_tags != ():
            force_setattr(self, "regulatory_tags", tags(self.regulatory_tags))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


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


def _is_plain(event_id: str, message: str, *others: str | None) -> bool:
    """Return whether all are certain to be texts that UTF-8 can carry; the *others* may be None."""
    try:
        return "".join([event_id, message, *[value for value in others if value is not None]]).isascii()
    except TypeError:
        return False
