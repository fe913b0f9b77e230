"""Conditions that several events meet together: `Threshold`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, cast

from msgspec import structs

from ..record.events import AuditEvent
from ..record.kinds import RULE_MET, AuditEventType, AuditLogLevel, member
from ..record.options import did_you_mean, require, require_callable, require_text, several
from ..storage.protocol import value_at

__all__ = ["Threshold"]

_MOST: Final = 1_000
_YEAR: Final = 31_536_000
_LONGEST_NAME: Final = 200
# The members to count by; the remaining members differ from event to event, or hardly at all.
_MEMBERS: Final = (
    *("user_id", "actor", "target", "client_ip", "session_id", "request_id", "trace_id"),
    *("component", "operation", "user_agent", "hostname"),
)
_METADATA: Final = "metadata."


@dataclass(frozen=True)
class Threshold:
    """
    A rule: so many events of a type within so many seconds, as NIS2 3.2.4 and PCI DSS 10.4.1.1 ask for.

        CompliancePolicy(rules=[Threshold("authentication_failed", count=5, within=600, by="user_id")])

    With the fifth event the rule is met, once: the trail records an event of its own, of the type "rule.threshold",
    which alerts. Its metadata have the name of the rule, the value of *by*, and the ids of the events behind it. For
    *within* seconds after the fifth event the rule is not met again for the same value.

    The trail itself is counted, so that it is the same after a restart and with several processes on one trail. Events
    count by the time and in the order in which they were recorded. Events that a receiver of an alert or a dispatcher
    logs do not count. Counting is done in the background, after the event is stored. If the storage fails in it, or the
    process is killed, a rule that was met in the ten minutes before is recorded when a trail is started, or with the
    next event of its types.

    Memory is bounded: a rule counts its newest 50,000 events. A `where` that raises is logged, once, and the event is
    not counted.

    Args:
        event_type: The type that counts, or several; your own too.
        count: How many events meet the rule, from 1 to 1,000.
        within: Seconds between the first of them and the last; at most 31,536,000, a year.
        by: The value that the events must have in common: a member, such as "user_id" or "client_ip"; "actor", a user
            or a service; "target"; or a name or a path in the metadata, "tenant", "http.status", which may begin with
            "metadata.". An event that has no such value is not counted. None: all events count together.
        where: Which events of the type count: is called with every stored event, in the event loop, and returns whether
            the event counts. It must not block, and must return the same for the same event.
        name: The name of the rule; by default made of the other options. Two rules of a policy need two names.
        log_level: The log level of the event that is recorded, and so the severity of its alert.

    Raises:
        TypeError: *count* is no whole number, *within* no number, or *where* is asynchronous, or can't be called with
            an event.
        ValueError: A number is out of range, the type or level is unknown, or *by* is a mistyped member.
    """

    event_type: str | AuditEventType | Collection[str | AuditEventType]
    _: KW_ONLY
    count: int
    within: float
    by: str | None = None
    where: Callable[[AuditEvent], bool] | None = field(default=None, repr=False)
    name: str = ""
    log_level: str | AuditLogLevel = AuditLogLevel.SECURITY

    def __post_init__(self) -> None:
        """Check the options, and make a name."""
        kinds = tuple(member(AuditEventType, kind, "event_type") for kind in several("event_type", self.event_type))
        if not kinds or RULE_MET in kinds:
            raise ValueError(f"event_type: expected types other than {RULE_MET.value}; got {self.event_type!r}")
        require("count", self.count, at_least=1, at_most=_MOST, whole=True)
        object.__setattr__(self, "within", require("within", self.within, above=0, at_most=_YEAR))
        if self.by is not None:
            _check_by(require_text("by", self.by))
        require_callable("where", self.where, expected="a function of an event", takes=1, or_none=True)
        name = require_text("name", self.name) or (
            f"{self.count} {' or '.join(kind.value for kind in kinds)} within {self.within:g} s"
            f"{f' by {self.by}' if self.by is not None else ''}"
        )
        object.__setattr__(self, "event_type", kinds)
        object.__setattr__(self, "name", name[:_LONGEST_NAME])
        object.__setattr__(self, "log_level", member(AuditLogLevel, self.log_level, "log_level"))

    @property
    def kinds(self) -> tuple[AuditEventType, ...]:
        """The types that count."""
        return cast("tuple[AuditEventType, ...]", self.event_type)

    def value_of(self, event: AuditEvent) -> Any:
        """Return the value that *event* is counted by; None if it has no such value."""
        by = self.by
        if by is None:
            return ""
        if by == "actor":
            return (event.actor.id if event.actor is not None else None) or event.user_id
        if by == "target":
            return str(event.target or "") or None
        if by in _MEMBERS:
            return getattr(event, by)
        return value_at(event.metadata, by.removeprefix(_METADATA))

    def members(self, event: AuditEvent) -> dict[str, Any]:
        """Return the member that *event* is counted by, so that the event about the rule is found where it is."""
        if self.by not in _MEMBERS:
            return {}
        if self.by == "target" and event.target is not None:
            # Not its text, in which an id without a type may look like one with a type.
            return {"target": structs.asdict(event.target)}
        return {"user_id" if self.by == "actor" else self.by: self.value_of(event)}


def _check_by(by: str) -> None:
    if by in _MEMBERS or by.startswith(_METADATA):
        return
    is_member = by in AuditEvent.__struct_fields__
    hint = "" if is_member else did_you_mean(by, _MEMBERS)
    # Otherwise nothing would ever be counted, without a warning.
    if is_member or hint or not by:
        expected = f"{', '.join(_MEMBERS)}, or a path in the metadata, {_METADATA}{by[:_LONGEST_NAME]}"
        raise ValueError(f"by: expected {expected}; got {by[:_LONGEST_NAME]!r}{hint}")
