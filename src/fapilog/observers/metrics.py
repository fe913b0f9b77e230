"""
Count alerts for Prometheus, and measure how long they take.

    from fapilog.observers import metrics

    metrics.connect()

Needs the extra ``metrics``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ..core.alerting import DeliveryReport
from ..core.audit import AuditTrail
from ..record.events import AuditEvent, AuditEventType, AuditLogLevel
from ._connection import Connection
from ._labels import OTHER, SECONDS, label
from ._outboxes import GAUGES, HasState, State, with_unique_names

__all__ = ["Connection", "HasState", "State", "connect"]


def connect(
    *,
    sender: AuditTrail | None = None,
    registry: CollectorRegistry = REGISTRY,
    outboxes: Iterable[HasState] = (),
) -> Connection:
    """
    Count every alert from now on, until the connection ends; then the metrics leave the registry.

    ========================================= =============================
    Metric                                    Labels
    ========================================= =============================
    ``fapilog_alerts_announced_total``        severity, event_type
    ``fapilog_alerts_finished_total``         severity, event_type, outcome
    ``fapilog_alert_waited_seconds``          severity, outcome
    ``fapilog_alert_took_seconds``            severity, outcome
    ``fapilog_alert_attempts_total``          target, outcome
    ``fapilog_outbox_pending``                outbox
    ``fapilog_outbox_oldest_pending_seconds`` outbox
    ``fapilog_outbox_dead``                   outbox
    ========================================= =============================

    Announced less finished is what waits. The outcome is `DeliveryReport.outcome`. Those in seconds of an alert are
    histograms; an alert that never reached the dispatcher, such as one with the outcome "buffer_full", took next to no
    time. Attempts are those of a dispatcher that makes several, such as an outbox, which is what the target names.
    There are only so many series: a severity or type that is none of ours is counted as "other".

    Those of an outbox are gauges, read when they are asked for. They are of the file: where several processes share
    one, each has the same numbers, so take the `max` of them and not the `sum`.

    Args:
        sender: The trail whose alerts are counted; None counts those of all trails.
        registry: Holds the metrics; by default the one that prometheus_client serves.
        outboxes: Whose state is measured.

    Raises:
        ValueError: *registry* has metrics of these names already, or two *outboxes* have the same name.
    """
    metrics = _Metrics(with_unique_names(outboxes))
    try:
        registry.register(metrics)
    except ValueError:
        raise ValueError(
            "registry: expected one without metrics of fapilog; to count several trails in one, connect once without "
            "sender; to connect anew, disconnect the earlier connection first"
        ) from None

    return Connection(
        sender,
        announced=metrics.announce,
        attempted=metrics.attempt,
        finished=metrics.finish,
        disconnected=lambda: registry.unregister(metrics),
    )


class _Metrics(Collector):
    """All the metrics as one collector, so that a registry takes either all of them or none."""

    def __init__(self, outboxes: Sequence[HasState]) -> None:
        self._outboxes = outboxes
        self._announced = Counter(
            "fapilog_alerts_announced",
            "Alerts that were announced.",
            ("severity", "event_type"),
            registry=None,
        )
        self._finished = Counter(
            "fapilog_alerts_finished",
            "Alerts that were dispatched or have failed.",
            ("severity", "event_type", "outcome"),
            registry=None,
        )
        self._waited = Histogram(
            "fapilog_alert_waited_seconds",
            "Time from the announcement of an alert to the call of the dispatcher.",
            ("severity", "outcome"),
            buckets=SECONDS,
            registry=None,
        )
        self._took = Histogram(
            "fapilog_alert_took_seconds",
            "Time that the dispatcher took for an alert.",
            ("severity", "outcome"),
            buckets=SECONDS,
            registry=None,
        )
        self._attempts = Counter(
            "fapilog_alert_attempts",
            "Attempts to deliver alerts.",
            ("target", "outcome"),
            registry=None,
        )
        self._all = (self._announced, self._finished, self._waited, self._took, self._attempts)

    def announce(self, _sender: object, *, event: AuditEvent, severity: str, **_others: object) -> None:
        self._announced.labels(label(AuditLogLevel, severity), label(AuditEventType, event.event_type)).inc()

    def finish(self, _sender: object, *, report: DeliveryReport) -> None:
        severity = label(AuditLogLevel, report.severity)
        event_type = label(AuditEventType, report.event.event_type)
        self._finished.labels(severity, event_type, report.outcome).inc()
        self._waited.labels(severity, report.outcome).observe(report.waited)
        self._took.labels(severity, report.outcome).observe(report.took)

    def attempt(self, _sender: object, *, report: DeliveryReport) -> None:
        self._attempts.labels(report.target or OTHER, report.outcome).inc()

    def collect(self) -> Iterable[Metric]:
        return chain(chain.from_iterable(metric.collect() for metric in self._all), self._gauges(self._outboxes))

    def describe(self) -> Iterable[Metric]:
        return chain(chain.from_iterable(metric.describe() for metric in self._all), self._gauges(()))

    @staticmethod
    def _gauges(outboxes: Iterable[HasState]) -> Iterator[Metric]:
        for gauge in GAUGES:
            unit = "_seconds" if gauge.unit == "s" else ""
            family = GaugeMetricFamily(f"fapilog_outbox_{gauge.name}{unit}", gauge.description, labels=["outbox"])
            for outbox in outboxes:
                family.add_metric([outbox.name], gauge.read(outbox.state))
            yield family
