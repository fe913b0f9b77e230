"""Which events alert, how severe they are, and on which channel."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ..record.chain import MAX_RECORD_BYTES
from ..record.events import PERSONAL, AuditEvent
from ..record.incidents import incident_of, is_recovery
from ..record.intake import LEAST_RECORD
from ..record.kinds import FLOORS, RULE_MET, AuditEventType, AuditLogLevel, AuditOutcome, ComplianceLevel, member
from ..record.later import imported_later
from ..record.options import did_you_mean, require, require_bool, require_mapping, require_text, several
from ..record.values import LEAST_TEXT, NO_METADATA, FrozenDict, kind_of
from .alerting import Alert

if TYPE_CHECKING:
    from .rules import Threshold
else:
    Threshold = imported_later("fapilog.core.rules", "Threshold")

__all__ = ["CompliancePolicy"]


@dataclass(frozen=True)
class CompliancePolicy:
    """
    Which events the trail records and announces.

    An event alerts, with `real_time_alerts`, if at least one of these holds:

    - its log level is critical, and `alert_on_critical_errors` is on;
    - its log level is security, or its type is authentication_failed (a failed sign-in, at whatever log level), and
      `alert_on_security_events` is on;
    - its type or its outcome is in `alert_on`;
    - it contains personal data, and the level is GDPR;
    - it contains health data, the level is HIPAA, and `alert_on_phi_access` is on;
    - a rule is met: the trail records an event about that, which alerts;
    - it ends an incident: its type is error_recovered or component_recovery, and its metadata name the ``incident``,
      as text or as a whole number. An incident that was announced is resolved in public too, at whatever log level.

    Args:
        level: The regulation that the service is under; it is recorded with every event.
        enabled: Whether events are stored at all.
        real_time_alerts: Whether any event alerts.
        alert_on_critical_errors: Whether critical events alert.
        alert_on_security_events: Whether security events alert.
        alert_on_phi_access: Whether health data alone make an event alert, under HIPAA. False for a service that reads
            them all day: such an event then alerts only for another reason.
        alert_on: Event types, also of your own, and outcomes that alert: ``{"impersonation", AuditOutcome.DENIED}``.
        severities: The severity of the alerts about some event types, ``{"admin_action": "critical"}``, in place of the
            log level. It makes no event alert.
        rules: Conditions that several events meet together, see `Threshold`.
        hipaa_minimum_necessary:
            Give the dispatcher only the fields that an on-call engineer needs to find the record: type, severity, time,
            component, and the place in the chain. From the metadata it gets the ``incident`` alone, hashed, so that a
            recovery still resolves its incident. Receivers in this process get the whole event.
        alert_channel: The channel that a dispatcher gets; None leaves the choice to the dispatcher.
        alert_channels: Other channels for some severities, for example ``{"critical": "#on-call"}``.
        max_text_characters: The longest text of a member such as the user agent, of a tag, and of a name in the
            metadata; of a longer one the beginning is kept, with its length and hash. At least 256.
        max_message_characters: The same for the message, the message of an error, and the texts in the metadata.
        max_record_bytes: The longest record; of an event that is longer still, more is cut. From 65,536 to 1,048,576.
        retention_days: Age in days beyond which `AuditTrail.apply_retention` removes a day; None for never.
        archive_after_days: Age in days beyond which it compresses a day, and copies it to the archive; None for never.
        retention_below_floor: Whether *retention_days* may be below the minimum of the level: 365 days for PCI DSS,
            2,190 for HIPAA. A separate option, so that a slip in the number removes no record that must be kept.
        strict: Whether a keyword that is no field of an event, and near one, is refused: ``clientip=``, of a recording
            method or of `audit_context`. By default it is stored in the metadata, with one warning per place in the
            code.

    Raises:
        TypeError: A limit or an age is no whole number, a channel no text, a rule no rule, or a switch neither True nor
            False.
        ValueError: An unknown level, type, outcome or severity, a limit out of range, two rules of one name, or a
            *retention_days* below the floor of the level.
    """

    level: ComplianceLevel = ComplianceLevel.BASIC
    enabled: bool = True
    _: KW_ONLY
    real_time_alerts: bool = True
    alert_on_critical_errors: bool = True
    alert_on_security_events: bool = True
    alert_on_phi_access: bool = True
    alert_on: Collection[str | AuditEventType | AuditOutcome] = ()
    severities: Mapping[str | AuditEventType, str | AuditLogLevel] = field(default_factory=FrozenDict)
    rules: Collection[Threshold] = ()
    hipaa_minimum_necessary: bool = False
    alert_channel: str | None = None
    alert_channels: Mapping[str, str] = field(default_factory=FrozenDict)
    max_text_characters: int = 8_192
    max_message_characters: int = 65_536
    max_record_bytes: int = 262_144
    retention_days: int | None = None
    archive_after_days: int | None = None
    retention_below_floor: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        """Check the names and the limits, and make the channels immutable."""
        require("max_text_characters", self.max_text_characters, at_least=LEAST_TEXT, whole=True)
        require("max_message_characters", self.max_message_characters, at_least=LEAST_TEXT, whole=True)
        require("max_record_bytes", self.max_record_bytes, at_least=LEAST_RECORD, at_most=MAX_RECORD_BYTES, whole=True)
        for each in fields(self):
            if each.type == "bool":
                require_bool(each.name, getattr(self, each.name))
        object.__setattr__(self, "level", member(ComplianceLevel, self.level, "level"))
        self._check_retention()
        if self.alert_channel is not None:
            require_text("alert_channel", self.alert_channel)
        example = 'a mapping such as {"critical": "#on-call"}'
        require_mapping("alert_channels", self.alert_channels, expected=example)
        channels = {
            member(AuditLogLevel, severity, "alert_channels").value: require_text("alert_channels", channel)
            for severity, channel in self.alert_channels.items()
        }
        object.__setattr__(self, "alert_channels", FrozenDict(channels))
        require_mapping("severities", self.severities, expected='a mapping such as {"admin_action": "critical"}')
        severities = {
            member(AuditEventType, kind, "severities").value: member(AuditLogLevel, severity, "severities").value
            for kind, severity in self.severities.items()
        }
        object.__setattr__(self, "severities", FrozenDict(severities))
        # Tuples, in which a member is found without its hash, which for an enum is slow: every event is looked up here.
        object.__setattr__(self, "alert_on", tuple(map(_kind_or_outcome, several("alert_on", self.alert_on))))
        object.__setattr__(self, "rules", _checked(self.rules))

    def _check_retention(self) -> None:
        for name in ("retention_days", "archive_after_days"):
            if getattr(self, name) is not None:
                require(name, getattr(self, name), at_least=1, whole=True)
        days, floor = self.retention_days, 365 * FLOORS.get(self.level, 0)
        if days is not None and days < floor and not self.retention_below_floor:
            raise ValueError(
                f"retention_days: expected at least {floor}, for which {self.level.value} asks; got {days}."
                " If you mean it, say so by retention_below_floor=True"
            )

    def alerts_on(self, event: AuditEvent) -> bool:
        """Return whether the trail announces *event*."""
        kind, log_level = event.event_type, event.log_level
        return self.real_time_alerts and (
            (log_level is AuditLogLevel.CRITICAL and self.alert_on_critical_errors)
            or (
                (log_level is AuditLogLevel.SECURITY or kind is AuditEventType.AUTHENTICATION_FAILED)
                and self.alert_on_security_events
            )
            or (event.contains_pii and self.level is ComplianceLevel.GDPR)
            or (event.contains_phi and self.level is ComplianceLevel.HIPAA and self.alert_on_phi_access)
            or kind in self.alert_on
            or event.outcome in self.alert_on
            or kind == RULE_MET
            or is_recovery(event)
        )

    def channel_for(self, severity: str) -> str | None:
        """Return the channel for alerts of *severity*; None leaves it to the dispatcher."""
        return self.alert_channels.get(severity, self.alert_channel)

    def alert_about(self, event: AuditEvent) -> Alert:
        """Return the alert about *event*, with the severity of its type or else its log level, and the channel."""
        severity = self.severities.get(event.event_type.value, event.log_level.value)
        return Alert(event, severity, self.channel_for(severity))

    def for_dispatch(self, event: AuditEvent) -> AuditEvent:
        """Return *event* as a dispatcher gets it: whole, or the minimum necessary."""
        if not self.hipaa_minimum_necessary:
            return event
        incident = incident_of(event)
        # 45 CFR 164.502(b): "reasonable efforts to limit protected health information to the minimum necessary".
        return msgspec.structs.replace(
            event,
            **_unnecessary(),
            metadata=NO_METADATA if incident is None else FrozenDict(incident=incident),
        )


def _kind_or_outcome(given: object) -> AuditEventType | AuditOutcome:
    name = require_text("alert_on", given, expected="event types and outcomes")
    with suppress(ValueError):
        return member(AuditOutcome, name, "alert_on")
    with suppress(ValueError):
        return member(AuditEventType, name, "alert_on")
    possible = [str(each.value) for kind in (AuditOutcome, AuditEventType) for each in kind]
    nearest = did_you_mean(name, possible)
    raise ValueError(f"alert_on: expected some of {', '.join(possible)}; got {str(name)[:_LONGEST_SHOWN]!r}{nearest}")


def _checked(given: object) -> tuple[Threshold, ...]:
    if type(given) is tuple and not given:
        return ()
    from .rules import Threshold  # noqa: PLC0415  imported with the first rule

    rules = (given,) if isinstance(given, Threshold) else several("rules", given, expected="a list of Threshold")
    for rule in rules:
        if not isinstance(rule, Threshold):
            raise TypeError(f"rules: expected a list of Threshold; got one with {kind_of(rule)}")
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"rules: expected a name= of its own for each; got two of {name!r}")
    return rules


# Characters of an unknown name that an error shows.
_LONGEST_SHOWN: Final = 200


@cache
def _unnecessary() -> dict[str, Any]:
    """Return members with their defaults: an engineer finds the record by its id, and all of them there."""
    others = {"request_id", "trace_id", "span_id", "hostname", "process_id"}
    names = {*PERSONAL, *others, "occurred", "regulatory_tags", "truncated", "line"} - {"metadata"}
    return {
        field.name: "" if field.name == "message" else field.default
        for field in msgspec.structs.fields(AuditEvent)
        if field.name in names
    }
