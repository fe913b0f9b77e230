"""Which alerts are about one incident, for the destinations that open and close incidents."""

from __future__ import annotations

from typing import Final

from ..core.events import AuditEvent, AuditEventType

__all__ = ["incident_of", "is_recovery"]

_RECOVERIES: Final = {AuditEventType.ERROR_RECOVERED, AuditEventType.COMPONENT_RECOVERY}


def incident_of(event: AuditEvent) -> str | None:
    """Return what *event*'s metadata call ``incident``: text or a whole number; None if there is neither."""
    incident = event.metadata.get("incident")
    return str(incident) if type(incident) in {str, int} and incident != "" else None


def is_recovery(event: AuditEvent) -> bool:
    """Whether *event* ends the incident that it names; one that names none can't, and is an alert like any other."""
    return event.event_type in _RECOVERIES and incident_of(event) is not None
