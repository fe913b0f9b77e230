"""
Count alerts with OpenTelemetry, and measure how long they take.

    from fapilog.observers import otel

    otel.connect()

Needs the extra ``otel``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Final
from weakref import WeakKeyDictionary

from .._extras import needs

with needs("otel"):
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from ..core.alerting import DeliveryReport
from ..core.audit import AuditTrail
from ..record.events import AuditEvent
from ..record.kinds import AuditEventType, AuditLogLevel
from ..record.options import require_kind
from ._connection import Connection
from ._gauges import ALL, Backlog, Gauge, HasBacklog, HasState, Measured, State, measured
from ._labels import OTHER, SECONDS, label

__all__ = ["Backlog", "Connection", "HasBacklog", "HasState", "State", "connect"]


def connect(
    *,
    sender: AuditTrail | None = None,
    meter_provider: MeterProvider | None = None,
    outboxes: Iterable[HasState] = (),
    replications: Iterable[HasBacklog] = (),
) -> Connection:
    """
    Count every alert from now on.

    ====================================== ========= =================================================================
    Instrument                             Unit      Attributes
    ====================================== ========= =================================================================
    ``fapilog.alerts.announced``           {alert}   ``fapilog.severity``, ``fapilog.event_type``
    ``fapilog.alerts.finished``            {alert}   ``fapilog.severity``, ``fapilog.event_type``, ``fapilog.outcome``
    ``fapilog.alert.waited``               s         ``fapilog.severity``, ``fapilog.outcome``
    ``fapilog.alert.took``                 s         ``fapilog.severity``, ``fapilog.outcome``
    ``fapilog.alert.attempts``             {attempt} ``fapilog.target``, ``fapilog.outcome``
    ``fapilog.outbox.pending``             {alert}   ``fapilog.outbox``
    ``fapilog.outbox.oldest_pending``      s         ``fapilog.outbox``
    ``fapilog.outbox.dead``                {alert}   ``fapilog.outbox``
    ``fapilog.replication.pending``        {record}  ``fapilog.replication``
    ``fapilog.replication.oldest_pending`` s         ``fapilog.replication``
    ====================================== ========= =================================================================

    They mean the same as the metrics of `fapilog.observers.metrics`; through a Prometheus exporter they also have the
    same names. Connections count on their own: connected twice, every alert is counted twice.

    Args:
        sender: The trail whose alerts are counted; None counts the alerts of all trails.
        meter_provider: Where the metrics go; by default to the global provider, which may also be set later.
        outboxes: Whose state is measured.
        replications: Whose state is measured.

    Raises:
        TypeError: *sender* is no trail, or *outboxes* or *replications* is no list of them.
        ValueError: Two *outboxes*, or two *replications*, have the same name.
    """
    if sender is not None:
        require_kind("sender", sender, AuditTrail)
    given = measured(outboxes, replications)
    watched = _watched_by(meter_provider)
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

    attempts = meter.create_counter("fapilog.alert.attempts", "{attempt}", "Attempts to deliver alerts.")
    for gauge in ALL:
        name = f"fapilog.{gauge.of}.{gauge.name}"
        meter.create_observable_gauge(name, [_reader(gauge, watched)], gauge.unit, gauge.description)

    def announced(_sender: object, *, event: AuditEvent, severity: str, **_others: object) -> None:
        announcements.add(1, _severity(severity) | _event_type(event))

    def attempted(_sender: object, *, report: DeliveryReport) -> None:
        attempts.add(1, {"fapilog.target": report.target or OTHER, "fapilog.outcome": report.outcome})

    def finished(_sender: object, *, report: DeliveryReport) -> None:
        attributes = {**_severity(report.severity), "fapilog.outcome": report.outcome}
        endings.add(1, attributes | _event_type(report.event))
        waited.record(report.waited, attributes)
        took.record(report.took, attributes)

    watched.append(given)
    return Connection(
        sender,
        announced=announced,
        attempted=attempted,
        finished=finished,
        disconnected=lambda: watched.remove(given),
    )


# The outboxes and replications that are watched, by provider. A provider keeps the first instrument of a name, with its
# callback, for good: so the callback reads the objects that are watched at the time.
_watched: Final[WeakKeyDictionary[MeterProvider, list[list[Measured]]]] = WeakKeyDictionary()
_watched_globally: Final[list[list[Measured]]] = []


def _watched_by(provider: MeterProvider | None) -> list[list[Measured]]:
    return _watched_globally if provider is None else _watched.setdefault(provider, [])


def _reader(gauge: Gauge, watched: Iterable[Iterable[Measured]]) -> Callable[[CallbackOptions], list[Observation]]:
    def read(_options: CallbackOptions) -> list[Observation]:
        return [
            Observation(gauge.read(each.item.state), {f"fapilog.{gauge.of}": each.item.name})
            for each in chain.from_iterable(tuple(watched))
            if gauge in each.gauges
        ]

    return read


def _severity(severity: str) -> dict[str, str]:
    return {"fapilog.severity": label(AuditLogLevel, severity)}


def _event_type(event: AuditEvent) -> dict[str, str]:
    return {"fapilog.event_type": label(AuditEventType, event.event_type)}
