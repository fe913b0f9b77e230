"""An incident of the trail's own: a part of the trail that fails, from its first failure until the part works again."""

from __future__ import annotations

import os
import uuid
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec

from ..record.events import AuditEvent
from ..record.kinds import AuditEventType, AuditLogLevel, ComplianceLevel

__all__ = [
    "CAPACITY",
    "CLOCK",
    "DISPATCHING",
    "END",
    "FILES",
    "LONGEST_TEXT",
    "OWN",
    "REPLICA",
    "RESUMING",
    "RETAINING",
    "RULES",
    "STORING",
    "UNTRUSTED",
    "VERIFICATION",
    "Incident",
    "Part",
    "new_id",
]

# Characters of a name or a cause that are kept: a recovery must fit into a record.
LONGEST_TEXT: Final = 1000

_Text = Annotated[str, msgspec.Meta(max_length=LONGEST_TEXT)]


class Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """
    A part of the trail, which may fail and recover.

    Attributes:
        component: "audit_trail" or "alert_delivery"; the component of the events.
        operation: The work of the part, or the name that a dispatcher gives it; the operation of the events.
    """

    component: Literal["audit_trail", "alert_delivery"]
    operation: _Text


STORING: Final = Part("audit_trail", "storing events")
VERIFICATION: Final = Part("audit_trail", "verification")
END: Final = Part("audit_trail", "the end of the trail")
CAPACITY: Final = Part("audit_trail", "room for events")
FILES: Final = Part("audit_trail", "the files of the trail")
CLOCK: Final = Part("audit_trail", "the clock")
REPLICA: Final = Part("audit_trail", "the replica of the trail")
RULES: Final = Part("audit_trail", "applying rules")
RETAINING: Final = Part("audit_trail", "applying retention")
DISPATCHING: Final = Part("alert_delivery", "dispatching alerts")
RESUMING: Final = Part("alert_delivery", "resending alerts from the trail")

# The parts that every trail has: their incidents are opened however many incidents the dispatcher's parts have open.
OWN: Final = (STORING, VERIFICATION, END, CAPACITY, FILES, CLOCK, REPLICA, RULES, RETAINING, DISPATCHING, RESUMING)
# The parts that an attacker with write access to the directory can make fail. The attacker could also write a file of
# incidents that says that they are known: it does not stop their announcement.
UNTRUSTED: Final = (STORING, VERIFICATION, FILES, CLOCK, REPLICA, RULES, RETAINING, RESUMING)

_WORDS: Final = {
    STORING: ("the audit trail can't store events", "the audit trail stores events again"),
    VERIFICATION: ("the audit trail can't be verified", "the audit trail is verified again"),
    END: ("the end of the audit trail was changed", "the end of the audit trail is known again"),
    CAPACITY: ("there is little room left for the audit trail", "there is room for the audit trail again"),
    FILES: ("files of the audit trail are missing", "the files of the audit trail are all there again"),
    CLOCK: ("the clock and the audit trail differ", "the clock and the audit trail agree again"),
    REPLICA: ("the replica of the audit trail is behind", "the replica of the audit trail is complete again"),
    RULES: ("the rules of the policy can't be applied", "the rules of the policy are applied again"),
    RETAINING: ("retention can't be applied", "retention is applied again"),
    DISPATCHING: ("an alert was not delivered", "alerts are delivered again"),
    RESUMING: ("alerts can't be resent from the trail", "alerts are resent from the trail again"),
}


def new_id(part: Part, number: uuid.UUID | None = None) -> uuid.UUID:
    """
    Return an id for an incident of *part*, new or made of *number*.

    The id depends on the part. So an incident in a file can't have the id of another part's incident, or of another
    event's alert, and resolve that when *part* works.
    """
    from hashlib import sha256  # noqa: PLC0415  as in `record.chain`

    mark = sha256(f"{part.component}\0{part.operation}".encode()).digest()[:4]
    return uuid.UUID(bytes=mark + (number or uuid.uuid4()).bytes[4:])


class Incident(msgspec.Struct, frozen=True):
    """
    A part that fails, in memory and in the file for the next process alike.

    Attributes:
        part: The part.
        id: The id of the event that announced the incident first.
        cause: Why the part failed first, without a secret.
        started: When the part failed first.
        alert: The alert about the failure: "due" if a process before this one opened the incident and could not have
            the alert delivered; "announced"; or "delivered", if the dispatcher has taken it.
        since: `started`, in seconds of the clock of the process that has the incident; the next process, whose clock is
            another, puts its own here.
    """

    part: Part
    id: uuid.UUID
    cause: _Text
    started: Annotated[datetime, msgspec.Meta(tz=True)]
    alert: Literal["due", "announced", "delivered"]
    since: float = 0.0

    def failure(self, level: ComplianceLevel, *, again: bool) -> AuditEvent:
        """Return the event that announces the failure; *again*: after an earlier process, with an id of its own."""
        message = f"{self._words[0]}: {self.cause}"
        event = self._event(AuditEventType.COMPONENT_FAILURE, AuditLogLevel.CRITICAL, message, level)
        return event if again else msgspec.structs.replace(event, event_id=str(self.id), timestamp=self.started)

    def recovery(self, level: ComplianceLevel, now: float) -> AuditEvent:
        """Return the event that the part works again, at *now* on the clock that `since` is of."""
        seconds = round(now - self.since, 3)
        message = f"{self._words[1]}, after {seconds:.0f} s; it had failed because of this: {self.cause}"
        event = self._event(AuditEventType.COMPONENT_RECOVERY, AuditLogLevel.INFO, message, level)
        ended = {"ended": event.timestamp.isoformat(), "seconds": seconds}
        return msgspec.structs.replace(event, metadata={**event.metadata, **ended})

    @property
    def _words(self) -> tuple[str, str]:
        operation = self.part.operation
        return _WORDS.get(self.part) or (f"{operation} does not work", f"{operation} works again")

    def _event(
        self, event_type: AuditEventType, log_level: AuditLogLevel, message: str, level: ComplianceLevel
    ) -> AuditEvent:
        metadata: dict[str, Any] = {
            "incident": str(self.id),
            "cause": self.cause,
            "started": self.started.isoformat(),
        }
        return AuditEvent(
            event_type=event_type,
            log_level=log_level,
            message=message,
            component=self.part.component,
            operation=self.part.operation,
            hostname=os.uname().nodename,
            process_id=os.getpid(),
            compliance_level=level,
            metadata=metadata,
        )
