"""The kinds that an event is of: its type, level, outcome and regulation."""

from __future__ import annotations

import re
from contextlib import suppress
from enum import Enum
from functools import cache
from typing import Any, Final, Self, TypeVar, cast

from .options import did_you_mean
from .values import UnreadableError, ask, given_text, shown, text

__all__ = [
    "FLOORS",
    "RULE_MET",
    "AuditEventType",
    "AuditLogLevel",
    "AuditOutcome",
    "ComplianceLevel",
    "member",
    "unlisted",
]


def _restored(kind: type[_K], value: str) -> _K:
    try:
        return kind(value)
    except ValueError:
        return unlisted(kind, value)


class _Kind(str, Enum):
    def __reduce_ex__(self, _: object) -> tuple[Any, ...]:
        """Be pickled and copied by value: a member that is not listed has no name by which it would be found again."""
        return _restored, (type(self), self.value)


_K = TypeVar("_K", bound=_Kind)


class AuditEventType(_Kind):
    """
    The kind of event.

    A kind of your own is a text with a dot: ``AuditEventType("billing.refund")``, or the text where a type is taken. A
    kind of a later version of fapilog, which this one does not know, is read as it is.
    """

    ERROR_OCCURRED = "error_occurred"
    ERROR_RECOVERED = "error_recovered"
    ERROR_ESCALATED = "error_escalated"
    AUTHENTICATION_SUCCEEDED = "authentication_succeeded"
    AUTHENTICATION_FAILED = "authentication_failed"
    AUTHORIZATION_FAILED = "authorization_failed"
    SECURITY_VIOLATION = "security_violation"
    SESSION_ENDED = "session_ended"
    CREDENTIAL_CHANGED = "credential_changed"
    ACCOUNT_CHANGED = "account_changed"
    ROLE_CHANGED = "role_changed"
    PERMISSION_CHANGED = "permission_changed"
    MFA_CHANGED = "mfa_changed"
    ADMIN_ACTION = "admin_action"
    IMPERSONATION = "impersonation"
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
    AUDIT_LOG_LIFECYCLE = "audit_log_lifecycle"
    RETENTION_POLICY_APPLIED = "retention_policy_applied"
    TIME_STEP = "time_step"

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if type(value) is str and len(value) <= _LONGEST_TYPE and _own_type().fullmatch(value):
            return unlisted(cls, value)
        return None


class AuditLogLevel(_Kind):
    """The severity of an event. Its value is that of the alert too, unless the policy has another for the type."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"
    SECURITY = "security"


class AuditOutcome(_Kind):
    """The outcome of an attempt: NIST SP 800-53 AU-3 f, PCI DSS 10.2.2."""

    SUCCESS = "success"
    FAILURE = "failure"
    DENIED = "denied"
    UNKNOWN = "unknown"


class ComplianceLevel(_Kind):
    """The regulation that the service is under; recorded with every event. Some change the behaviour of a trail."""

    NONE = "none"
    """Changes nothing."""
    BASIC = "basic"
    """The default; changes nothing."""
    SOX = "sox"
    """The Sarbanes-Oxley Act; changes nothing."""
    HIPAA = "hipaa"
    """Events that contain health data alert, unless the policy has ``alert_on_phi_access=False``."""
    GDPR = "gdpr"
    """Events that contain personal data alert."""
    PCI_DSS = "pci_dss"
    """
    The trail records its own start and stop (10.2.1.6), and every reading of its events by `get_events`, `events` or
    `count_by` (10.2.1.3).
    """
    SOC2 = "soc2"
    """Changes nothing."""
    ISO27001 = "iso27001"
    """Changes nothing."""


FLOORS: Final = {ComplianceLevel.PCI_DSS: 1, ComplianceLevel.HIPAA: 6}
"""Years that the records of a level are kept at least, as PCI DSS 10.5.1 and 45 CFR 164.316(b)(2)(i) ask."""

E = TypeVar("E", bound=Enum)
_LONGEST_TYPE: Final = 128
# Characters of a value that a message about it shows.
_LONGEST_SHOWN: Final = 200


# The levels of the standard library's loggers, by which most code knows them.
# https://docs.python.org/3/library/logging.html#logging-levels
_STANDARD: Final = {
    10: AuditLogLevel.DEBUG,
    20: AuditLogLevel.INFO,
    30: AuditLogLevel.WARNING,
    40: AuditLogLevel.ERROR,
    50: AuditLogLevel.CRITICAL,
}


@cache
def _own_type() -> re.Pattern[str]:
    # Namespace and name: no text that the application makes of its data, and none that a mistyped name could be.
    return re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)+", re.ASCII)


def member(kind: type[E], value: object, name: str) -> E:
    """
    Return the member of the enum *kind* that *value* is or names, in lower or upper case.

    A log level may be one of the standard library's: `logging.WARNING`.

    Raises:
        ValueError: There is none. The message has the values that *name* takes, the one that came, and the nearest.
    """
    if type(value) is kind:
        return value
    # Of a subclass of str, an enum of the application for example, the text that it is. Not by `isinstance`, which
    # trusts an object's own `__class__`.
    given = given_text(value) if issubclass(type(value), str) else value
    # Any other value would be asked for its hash, whether it equals a member, and for its `repr`.
    if type(given) is str or type(given) is int:
        with suppress(ValueError):
            return kind(given)
    values = {str(each.value): each for each in kind}
    found = values.get(given.lower()) if type(given) is str else None
    if found is None and kind is AuditLogLevel and type(given) is int:
        found = cast("E | None", _STANDARD.get(given))
    if found is None:
        nearest = did_you_mean(given, values) if type(given) is str else ""
        own = ", or a type of your own with a dot, such as billing.refund" if kind is AuditEventType else ""
        raise ValueError(f"{name}: expected one of {', '.join(values)}{own}; got {_shown(value)}{nearest}")
    return found


def unlisted(kind: type[E], value: str) -> E:
    """Return a member of the enum *kind* that is not listed in it: it equals, and prints as, any other of its value."""
    found = str.__new__(kind, value)  # type: ignore[type-var]
    found._name_ = found._value_ = value
    return found


RULE_MET: Final = unlisted(AuditEventType, "rule.threshold")
"""The type of the event that a trail records when a rule is met."""


def _shown(value: object) -> str:
    try:
        return text(ask(shown, value))[:_LONGEST_SHOWN]
    except UnreadableError as error:
        return str(error)
