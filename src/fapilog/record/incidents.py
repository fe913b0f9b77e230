"""Which events are about one incident, and which of them end it."""

from __future__ import annotations

import re
from typing import Final

from .events import AuditEvent
from .kinds import AuditEventType

__all__ = ["incident_of", "is_recovery", "subject_of"]

# A tuple, in which a member is found without its hash, which for an enum is slow: every event is looked up here.
_RECOVERIES: Final = (AuditEventType.ERROR_RECOVERED, AuditEventType.COMPONENT_RECOVERY)
_HASHED: Final = "sha256:[0-9a-f]{64}"


def incident_of(event: AuditEvent) -> str | None:
    """
    Return the incident that *event*'s metadata name as ``incident``, hashed; None if they name none.

    It is text or a whole number: a name that a part of a service gives it, or the id of its first event. The hash of a
    hash is the hash itself, so that an event cut to the hashed incident is about the same incident.
    """
    incident = event.metadata.get("incident")
    return _hashed(str(incident)) if type(incident) in {str, int} and incident != "" else None


def subject_of(event: AuditEvent) -> str:
    """
    Return the subject of *event*, hashed: its incident, or else the event itself.

    So an event without an incident is about the same as one that names it by its id.
    """
    return incident_of(event) or _hashed(event.event_id)


def is_recovery(event: AuditEvent) -> bool:
    """Whether *event* ends the incident that it names; an event that names none is like any other."""
    return event.event_type in _RECOVERIES and incident_of(event) is not None


def _hashed(name: str) -> str:
    from hashlib import sha256  # noqa: PLC0415  as in `chain`

    return name if re.fullmatch(_HASHED, name) else f"sha256:{sha256(name.encode()).hexdigest()}"
