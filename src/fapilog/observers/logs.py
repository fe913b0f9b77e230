"""
Write every alert and its outcome to the standard library's logging.

    from fapilog.observers import logs

    logs.connect()

A record's message is one of a few fixed names, and the details are in `extra`, under keys that begin with ``fapilog_``.
So it reads the same in any formatter for structured logs, such as structlog's `ProcessorFormatter`.
"""

from __future__ import annotations

import logging

from ..core.alerting import DeliveryReport
from ..core.audit import AuditTrail
from ..record.events import AuditEvent
from ..record.kinds import AuditEventType, AuditLogLevel
from ..record.options import require_kind
from ._connection import Connection
from ._labels import label

__all__ = ["Connection", "connect"]


def connect(*, sender: AuditTrail | None = None, logger: str = "fapilog.alerts") -> Connection:
    """
    Log every alert from now on.

    ============================ ======= ================================================
    Message                      Level   When
    ============================ ======= ================================================
    ``fapilog.alert_announced``  DEBUG   An event that meets the policy was stored
    ``fapilog.alert_attempted``  INFO    One attempt of several has delivered the alert
    ``fapilog.alert_attempted``  WARNING One attempt of several has failed
    ``fapilog.alert_dispatched`` INFO    The dispatcher has taken the alert
    ``fapilog.alert_failed``     ERROR   The alert was not delivered
    ============================ ======= ================================================

    All have ``fapilog_event_id``, ``fapilog_event_type``, ``fapilog_sequence_number``, ``fapilog_severity`` and
    ``fapilog_channel``. All but the first also have ``fapilog_outcome`` (as `DeliveryReport.outcome`),
    ``fapilog_waited`` and ``fapilog_took`` in seconds, and ``fapilog_error`` (as `DeliveryReport.reason`). Attempts
    have ``fapilog_target`` and ``fapilog_attempt`` too. Nothing else of the event is logged; the trail has it.

    The trail logs a failed alert itself too, in words, on the logger "fapilog". Connections log on their own: connected
    twice, every alert is logged twice.

    Args:
        sender: The trail whose alerts are logged; None logs the alerts of all trails.
        logger: The name of the logger.

    Raises:
        TypeError: *sender* is no trail, or *logger* no text.
    """
    if sender is not None:
        require_kind("sender", sender, AuditTrail)
    log = logging.getLogger(logger)

    def announced(_sender: object, *, event: AuditEvent, severity: str, channel: str | None = None) -> None:
        log.debug("fapilog.alert_announced", extra=_alert(event, severity, channel))

    def attempted(_sender: object, *, report: DeliveryReport) -> None:
        level = logging.INFO if report.error is None else logging.WARNING
        which = {"fapilog_target": report.target, "fapilog_attempt": report.attempt}
        log.log(level, "fapilog.alert_attempted", extra=_ending(report) | which)

    def finished(_sender: object, *, report: DeliveryReport) -> None:
        if report.error is None:
            log.info("fapilog.alert_dispatched", extra=_ending(report))
        else:
            log.error("fapilog.alert_failed", extra=_ending(report))

    return Connection(sender, announced=announced, attempted=attempted, finished=finished)


def _ending(report: DeliveryReport) -> dict[str, object]:
    return _alert(report.event, report.severity, report.channel) | {
        "fapilog_outcome": report.outcome,
        "fapilog_waited": report.waited,
        "fapilog_took": report.took,
        "fapilog_error": report.reason,
    }


def _alert(event: AuditEvent, severity: str, channel: str | None) -> dict[str, object]:
    return {
        "fapilog_event_id": event.event_id,
        "fapilog_event_type": label(AuditEventType, event.event_type),
        "fapilog_sequence_number": event.sequence_number,
        "fapilog_severity": label(AuditLogLevel, severity),
        "fapilog_channel": channel,
    }
