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
from ._connection import Connection
from ._labels import OTHER, SECONDS, label
from ._outboxes import GAUGES, Gauge, HasState, State, with_unique_names

__all__ = ["Connection", "HasState", "State", "connect"]


def connect(
    *,
    sender: AuditTrail | None = None,
    meter_provider: MeterProvider | None = None,
    outboxes: Iterable[HasState] = (),
) -> Connection:
    """
    Count every alert from now on.

    ================================= ========= =================================================================
    Instrument                        Unit      Attributes
    ================================= ========= =================================================================
    ``fapilog.alerts.announced``      {alert}   ``fapilog.severity``, ``fapilog.event_type``
    ``fapilog.alerts.finished``       {alert}   ``fapilog.severity``, ``fapilog.event_type``, ``fapilog.outcome``
    ``fapilog.alert.waited``          s         ``fapilog.severity``, ``fapilog.outcome``
    ``fapilog.alert.took``            s         ``fapilog.severity``, ``fapilog.outcome``
    ``fapilog.alert.attempts``        {attempt} ``fapilog.target``, ``fapilog.outcome``
    ``fapilog.outbox.pending``        {alert}   ``fapilog.outbox``
    ``fapilog.outbox.oldest_pending`` s         ``fapilog.outbox``
    ``fapilog.outbox.dead``           {alert}   ``fapilog.outbox``
    ================================= ========= =================================================================

    They mean the same as those of `fapilog.observers.metrics`; through a Prometheus exporter the metrics also have
    the same names. Each connection counts on its own: connected twice, every alert is counted twice.

    Args:
        sender: The trail whose alerts are counted; None counts those of all trails.
        meter_provider: Where the metrics go; by default to the global provider, which may also be set later.
        outboxes: Whose state is measured.

    Raises:
        ValueError: Two *outboxes* have the same name.
    """
    given = with_unique_names(outboxes)
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
    for gauge in GAUGES:
        name = f"fapilog.outbox.{gauge.name}"
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


# What the connections of each provider watch. Of instruments with the same name a provider keeps the first, with its
# callback, and for good: so that is one that reads whatever is watched at the time.
_watched: Final[WeakKeyDictionary[MeterProvider, list[list[HasState]]]] = WeakKeyDictionary()
_watched_globally: Final[list[list[HasState]]] = []


def _watched_by(provider: MeterProvider | None) -> list[list[HasState]]:
    return _watched_globally if provider is None else _watched.setdefault(provider, [])


def _reader(gauge: Gauge, watched: Iterable[Iterable[HasState]]) -> Callable[[CallbackOptions], list[Observation]]:
    def read(_options: CallbackOptions) -> list[Observation]:
        outboxes = chain.from_iterable(tuple(watched))
        return [Observation(gauge.read(outbox.state), {"fapilog.outbox": outbox.name}) for outbox in outboxes]

    return read


def _severity(severity: str) -> dict[str, str]:
    return {"fapilog.severity": label(AuditLogLevel, severity)}


def _event_type(event: AuditEvent) -> dict[str, str]:
    return {"fapilog.event_type": label(AuditEventType, event.event_type)}
