"""
Count alerts with OpenTelemetry, and measure how long they take.

    from fapilog.observers import otel

    otel.connect()

Needs the extra ``otel``.
"""

from __future__ import annotations

from opentelemetry.metrics import MeterProvider, get_meter

from ..core.alerting import DeliveryReport
from ..core.audit import AuditTrail
from ..core.events import AuditEvent, AuditEventType, AuditLogLevel
from ._connection import Connection
from ._labels import SECONDS, label

__all__ = ["Connection", "connect"]


def connect(*, sender: AuditTrail | None = None, meter_provider: MeterProvider | None = None) -> Connection:
    """
    Count every alert from now on.

    ============================ ======= ============================================================
    Instrument                   Unit    Attributes
    ============================ ======= ============================================================
    ``fapilog.alerts.announced`` {alert} ``fapilog.severity``, ``fapilog.event_type``
    ``fapilog.alerts.finished``  {alert} ``fapilog.severity``, ``fapilog.event_type``, ``fapilog.outcome``
    ``fapilog.alert.waited``     s       ``fapilog.severity``, ``fapilog.outcome``
    ``fapilog.alert.took``       s       ``fapilog.severity``, ``fapilog.outcome``
    ============================ ======= ============================================================

    They mean the same as those of `fapilog.observers.metrics`; through a Prometheus exporter the metrics also have
    the same names. Each connection counts on its own: connected twice, every alert is counted twice.

    Args:
        sender: The trail whose alerts are counted; None counts those of all trails.
        meter_provider: Where the metrics go; by default to the global provider, which may also be set later.
    """
    meter = get_meter("fapilog", meter_provider=meter_provider)
    announcements = meter.create_counter("fapilog.alerts.announced", "{alert}", "Alerts that were announced.")
    endings = meter.create_counter("fapilog.alerts.finished", "{alert}", "Alerts that were dispatched or have failed.")
    waited = meter.create_histogram(
        "fapilog.alert.waited",
        "s",
        "Time from the announcement of an alert to the call of the dispatcher.",
        explicit_bucket_boundaries_advisory=SECONDS,
    )
    took = meter.create_histogram(
        "fapilog.alert.took",
        "s",
        "Time that the dispatcher took for an alert.",
        explicit_bucket_boundaries_advisory=SECONDS,
    )

    def announced(_sender: object, *, event: AuditEvent, severity: str, **_others: object) -> None:
        announcements.add(1, _severity(severity) | _event_type(event))

    def finished(_sender: object, *, report: DeliveryReport) -> None:
        attributes = {**_severity(report.severity), "fapilog.outcome": report.outcome}
        endings.add(1, attributes | _event_type(report.event))
        waited.record(report.waited, attributes)
        took.record(report.took, attributes)

    return Connection(sender, announced=announced, finished=finished)


def _severity(severity: str) -> dict[str, str]:
    return {"fapilog.severity": label(AuditLogLevel, severity)}


def _event_type(event: AuditEvent) -> dict[str, str]:
    return {"fapilog.event_type": label(AuditEventType, event.event_type)}
