"""
Write what becomes of each alert to the standard library's logging.

    from fapilog.observers import logs

    logs.connect()

Each record's message is the fixed name of what happened, and what is known is in `extra`, under keys that begin with
``fapilog_``. So it reads the same in any formatter for structured logs, such as structlog's `ProcessorFormatter`.
"""

from __future__ import annotations

import logging

from ..core.alerting import DeliveryReport
from ..core.audit import AuditTrail
from ..core.events import AuditEvent, AuditEventType, AuditLogLevel
from ._connection import Connection
from ._labels import label

__all__ = ["Connection", "connect"]


def connect(*, sender: AuditTrail | None = None, logger: str = "fapilog.alerts") -> Connection:
    """
    Log every alert from now on.

    ============================ ======= ================================================
    Message                      Level   When
    ============================ ======= ================================================
    ``fapilog.alert_announced``  DEBUG   An event was stored that someone must be told of
    ``fapilog.alert_dispatched`` INFO    The dispatcher has taken the alert
    ``fapilog.alert_failed``     ERROR   The alert was not delivered
    ============================ ======= ================================================

    All have ``fapilog_event_id``, ``fapilog_event_type``, ``fapilog_sequence_number``, ``fapilog_severity`` and
    ``fapilog_channel``. The last two also have ``fapilog_outcome`` (as `DeliveryReport.outcome`), ``fapilog_waited``
    and ``fapilog_took`` in seconds, and ``fapilog_error`` (as `DeliveryReport.reason`). Nothing else of
    the event is logged; the trail has it.

    The trail logs a failed alert itself too, in words, on the logger "fapilog". Each connection logs on its own:
    connected twice, every alert is logged twice.

    Args:
        sender: The trail whose alerts are logged; None logs those of all trails.
        logger: The name of the logger.
    """
    log = logging.getLogger(logger)

    def announced(_sender: object, *, event: AuditEvent, severity: str, channel: str | None = None) -> None:
        log.debug("fapilog.alert_announced", extra=_alert(event, severity, channel))

    def finished(_sender: object, *, report: DeliveryReport) -> None:
        extra = _alert(report.event, report.severity, report.channel) | {
            "fapilog_outcome": report.outcome,
            "fapilog_waited": report.waited,
            "fapilog_took": report.took,
            "fapilog_error": report.reason,
        }
        if report.error is None:
            log.info("fapilog.alert_dispatched", extra=extra)
        else:
            log.error("fapilog.alert_failed", extra=extra)

    return Connection(sender, announced=announced, finished=finished)


def _alert(event: AuditEvent, severity: str, channel: str | None) -> dict[str, object]:
    return {
        "fapilog_event_id": event.event_id,
        "fapilog_event_type": label(AuditEventType, event.event_type),
        "fapilog_sequence_number": event.sequence_number,
        "fapilog_severity": label(AuditLogLevel, severity),
        "fapilog_channel": channel,
    }
