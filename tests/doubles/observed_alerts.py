"""Alerts that tests announce and finish by hand."""

from fapilog import (
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    DeliveryReport,
    alert_attempted,
    alert_dispatched,
    alert_failed,
    compliance_alert,
)
from fapilog.record.errordetails import ErrorDetails

# Stands in every field of an event that only the trail may keep.
PRIVATE = "jane@example.com"

EVENT = AuditEvent(
    event_id="6c1f0a3e-8f0e-4f5b-9a39-3d6f0d5a7e11",
    event_type=AuditEventType.AUTHENTICATION_FAILED,
    log_level=AuditLogLevel.SECURITY,
    message=PRIVATE,
    component=PRIVATE,
    operation=PRIVATE,
    user_id=PRIVATE,
    session_id=PRIVATE,
    request_id=PRIVATE,
    client_ip=PRIVATE,
    user_agent=PRIVATE,
    hostname=PRIVATE,
    error=ErrorDetails.of(ValueError(PRIVATE)),
    data_classification=PRIVATE,
    regulatory_tags=(PRIVATE,),
    metadata={PRIVATE: PRIVATE},
    sequence_number=7,
    checksum="0" * 64,
)


def announce(sender: object = None, *, event: AuditEvent = EVENT, severity: str = "security") -> None:
    """Send `compliance_alert`."""
    compliance_alert.send(sender, event=event, severity=severity, channel="#on-call")


def finish(
    sender: object = None,
    *,
    severity: str = "security",
    waited: float = 0.25,
    took: float = 1.5,
    error: Exception | None = None,
) -> None:
    """Send `alert_dispatched`, or `alert_failed` if there is an *error*."""
    signal = alert_dispatched if error is None else alert_failed
    signal.send(
        sender,
        report=DeliveryReport(
            event=EVENT, severity=severity, channel="#on-call", waited=waited, took=took, error=error
        ),
    )


def attempt(
    sender: object = None,
    *,
    target: str | None = "slack",
    number: int = 2,
    severity: str = "security",
    error: Exception | None = None,
) -> None:
    """Send `alert_attempted`."""
    alert_attempted.send(
        sender,
        report=DeliveryReport(
            event=EVENT,
            severity=severity,
            channel="#on-call",
            waited=0.25,
            took=1.5,
            error=error,
            target=target,
            attempt=number,
        ),
    )
