"""An incident of the trail's own: a part of the trail that fails, from its first failure until the part works again."""

from __future__ import annotations

import math
import os
import uuid
from typing import Annotated, Any, Final, Literal

import msgspec

from ..record.events import AuditEvent
from ..record.kinds import AuditEventType, AuditLogLevel, ComplianceLevel
from ..record.times import Moment

__all__ = [
    "CAPACITY",
    "CLOCK",
    "DISPATCHING",
    "END",
    "FILES",
    "LONGEST_TEXT",
    "MOST_OPEN",
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
    "Relapses",
    "is_own",
    "new_id",
]

# Characters of a name or a cause that are kept: a recovery must fit into a record.
LONGEST_TEXT: Final = 1000
# Incidents that are open at once, in memory and in a file: a dispatcher names its parts itself, and names that change
# all the time must not fill the memory.
MOST_OPEN: Final = 100
# Seconds that a part works before its incident is over, if it has failed soon after the one before; and the seconds
# after which that is no longer soon.
_SHORTEST: Final = 1.0
_LONGEST: Final = 300.0
# Parts whose failures are remembered; bounded for the same reason.
_MOST_PARTS: Final = 200

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
# The parts that every trail has: their incidents are opened however many incidents the dispatcher's parts have open.
OWN: Final = tuple(_WORDS)


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
    started: Annotated[Moment, msgspec.Meta(tz=True)]
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


def is_own(event: AuditEvent) -> bool:
    """Return whether *event* is about an incident of the trail's own."""
    return event.event_type in _TYPES and event.component in _COMPONENTS and "incident" in event.metadata


_COMPONENTS: Final = ("audit_trail", "alert_delivery")
_TYPES: Final = (AuditEventType.COMPONENT_FAILURE, AuditEventType.COMPONENT_RECOVERY)


class Relapses:
    """
    How long each part has to work before its incident is over, by the times at which it failed and worked before.

    A disk that is nearly full takes small writes and refuses large ones. If every turn were an incident, the pager
    would ring at every turn; and an outbox on that disk, which the alerts about it go by, would feed itself. So an
    incident is over with the first success; but the next incident of a part that fails again within five minutes is
    over when the part has not failed for a second, and each time for twice as long, up to five minutes.

    All times are seconds of one clock.
    """

    def __init__(self) -> None:
        self._parts: dict[Part, _Course] = {}

    def opened(self, part: Part, now: float) -> None:
        """Note that *part* has failed, and that an incident was opened."""
        before = self._parts.pop(part, None)
        is_relapse = before is not None and now - before.failed < before.needs + _LONGEST
        needs = min(_LONGEST, max(_SHORTEST, 2 * before.needs)) if before is not None and is_relapse else 0.0
        self._parts[part] = _Course(needs, now)
        if len(self._parts) > _MOST_PARTS:
            del self._parts[next(iter(self._parts))]

    def failed(self, part: Part, now: float) -> None:
        """Note that *part* has failed, while its incident is open."""
        course = self._parts.get(part)
        if course is not None:
            course.failed, course.works = now, False

    def worked(self, part: Part) -> None:
        """Note that *part* has worked, while its incident is open."""
        # Of an incident of an earlier process there is no course.
        self._parts.setdefault(part, _Course(0.0, -math.inf)).works = True

    def is_over(self, part: Part, now: float) -> bool:
        """Whether the open incident of *part* is over."""
        course = self._parts.get(part)
        return course is not None and course.works and now - course.failed >= course.needs


class _Course:
    __slots__ = ("failed", "needs", "works")

    def __init__(self, needs: float, failed: float) -> None:
        self.needs = needs
        self.failed = failed
        self.works = False
