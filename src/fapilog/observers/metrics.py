"""
Count alerts for Prometheus, and measure how long they take.

    from fapilog.observers import metrics

    metrics.connect()

Needs the extra ``metrics``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Final

from .._extras import needs

with needs("metrics"):
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric
    from prometheus_client.registry import Collector

from ..core.alerting import DeliveryReport
from ..core.audit import AuditTrail
from ..record.events import AuditEvent
from ..record.kinds import AuditEventType, AuditLogLevel
from ..record.options import require_kind
from ..tasks.fork import call_in_child
from ..tasks.strangers import Log
from ._connection import Connection
from ._gauges import ALL, Backlog, HasBacklog, HasState, Measured, State, measured
from ._labels import OTHER, SECONDS, label

__all__ = ["Backlog", "Connection", "HasBacklog", "HasState", "State", "connect"]

_log: Final = Log("fapilog.observers")

# Seconds between two looks for a new count in multiprocess mode; an outbox counts about once a second.
_LOOK_EVERY: Final = 1.0


def connect(
    *,
    sender: AuditTrail | None = None,
    registry: CollectorRegistry = REGISTRY,
    outboxes: Iterable[HasState] = (),
    replications: Iterable[HasBacklog] = (),
) -> Connection:
    """
    Count every alert from now on, until the connection ends; then the metrics leave the registry.

    ============================================== =============================
    Metric                                         Labels
    ============================================== =============================
    ``fapilog_alerts_announced_total``             severity, event_type
    ``fapilog_alerts_finished_total``              severity, event_type, outcome
    ``fapilog_alert_waited_seconds``               severity, outcome
    ``fapilog_alert_took_seconds``                 severity, outcome
    ``fapilog_alert_attempts_total``               target, outcome
    ``fapilog_outbox_pending``                     outbox
    ``fapilog_outbox_oldest_pending_seconds``      outbox
    ``fapilog_outbox_dead``                        outbox
    ``fapilog_replication_pending``                replication
    ``fapilog_replication_oldest_pending_seconds`` replication
    ============================================== =============================

    Announced less finished is the number of alerts that wait. The outcome is `DeliveryReport.outcome`. The seconds of
    an alert are histograms; an alert that never reached the dispatcher, such as one with the outcome "buffer_full",
    took next to no time. Attempts are counted for a dispatcher that makes several, such as an outbox; the target is its
    name. There are only so many series: a severity or type that is none of ours is counted as "other".

    The metrics of an outbox and of a replication are gauges, read when they are asked for. They are of the file, or of
    the directory: processes that share one have the same numbers, so take their `max` and not the `sum`.

    In the multiprocess mode of prometheus_client, with ``PROMETHEUS_MULTIPROC_DIR`` in the environment, a scrape asks
    no process, but reads the files that the processes have written. So a thread of every process writes the gauges of
    an outbox within a second after that process has counted its alerts, and a scrape shows the newest count of all (the
    mode "livemostrecent"). A gauge is missing until the first count. Written metrics stay when the connection ends.

    Args:
        sender: The trail whose alerts are counted; None counts the alerts of all trails.
        registry: Holds the metrics; by default the one that prometheus_client serves.
        outboxes: Whose state is measured.
        replications: Whose state is measured.

    Raises:
        TypeError: *sender* is no trail, or *outboxes* or *replications* is no list of them.
        ValueError: *registry* has metrics of these names already, or two *outboxes*, or two *replications*, have the
            same name.
    """
    if sender is not None:
        require_kind("sender", sender, AuditTrail)
    given = measured(outboxes, replications)
    # In lower case too, as prometheus_client has it.
    is_multiprocess = any(name in os.environ for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"))
    metrics = _Metrics(() if is_multiprocess else given)
    try:
        registry.register(metrics)
    except ValueError:
        raise ValueError(
            "registry: expected one without metrics of fapilog; to count several trails in one, connect once without "
            "sender; to connect anew, disconnect the earlier connection first"
        ) from None

    undo = ExitStack()
    undo.callback(registry.unregister, metrics)
    if is_multiprocess and given:
        undo.callback(_CountWatch(given, metrics.measure).stop)
    return Connection(
        sender,
        announced=metrics.announce,
        attempted=metrics.attempt,
        finished=metrics.finish,
        disconnected=undo.close,
    )


class _Metrics(Collector):
    """
    All the metrics as one collector, so that a registry takes either all of them or none.

    Args:
        measured: Whose state is measured when the metrics are collected.
    """

    def __init__(self, measured: Sequence[Measured]) -> None:
        self._measured = measured
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
        self._gauges = {
            gauge: Gauge(
                f"fapilog_{gauge.of}_{gauge.name}{'_seconds' if gauge.unit == 's' else ''}",
                gauge.description,
                (gauge.of,),
                registry=None,
                # All processes count the alerts in one file: the newest count is right, and that of a dead process is
                # removed, so that the gauge is missing when no process counts any more.
                # https://prometheus.github.io/client_python/multiprocess/
                multiprocess_mode="livemostrecent",
            )
            for gauge in ALL
        }
        self._all = (self._announced, self._finished, self._waited, self._took, self._attempts, *self._gauges.values())

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

    def measure(self, each: Measured) -> None:
        state = each.item.state
        for gauge in each.gauges:
            self._gauges[gauge].labels(each.item.name).set(gauge.read(state))

    def collect(self) -> Iterable[Metric]:
        for each in self._measured:
            self.measure(each)
        return chain.from_iterable(metric.collect() for metric in self._all)

    def describe(self) -> Iterable[Metric]:
        return chain.from_iterable(metric.describe() for metric in self._all)


class _CountWatch:
    """
    Measures in multiprocess mode: in a thread, and whenever this process has counted anew.

    Not at other times: the scrape shows the numbers that were written last. A process that counts nothing, such as a
    master that only forks the workers, would else hide the counts of the workers behind its old ones, or behind zeros.

    Args:
        given: Their state is a new object after every count.
        measure: Called with one of them.
    """

    def __init__(self, given: Sequence[Measured], measure: Callable[[Measured], None]) -> None:
        self._given = given
        self._measure = measure
        self._stopped = threading.Event()
        self._begin()
        call_in_child(self, _CountWatch._begin)

    def _begin(self) -> None:
        # In a forked child too: no thread of the parent runs there, and its outboxes have counted nothing yet.
        if self._stopped.is_set():
            return
        self._stopped = threading.Event()
        self._seen = [each.item.state for each in self._given]
        self._fails = False
        try:
            threading.Thread(target=self._run, args=[self._stopped], name="fapilog-metrics", daemon=True).start()
        except RuntimeError as error:
            _log.error("cannot measure the gauges: no thread can be started (%s)", error)

    def stop(self) -> None:
        """Measure nothing from now on."""
        with _measuring:
            self._stopped.set()

    def _run(self, stopped: threading.Event) -> None:
        while not stopped.wait(_LOOK_EVERY):
            with _measuring:
                if not stopped.is_set():
                    self._look()

    def _look(self) -> None:
        try:
            for number, each in enumerate(self._given):
                state = each.item.state
                if state is not self._seen[number]:
                    self._measure(each)
                    self._seen[number] = state
            self._fails = False
        except Exception as error:
            # The directory of the metrics may be full or gone, for a while.
            if not self._fails:
                _log.error("cannot measure the gauges (%s); tried again every second", type(error).__qualname__)
            self._fails = True


# prometheus_client writes all its metrics under one lock, which a child that is forked meanwhile would find locked for
# ever. So the thread does not write while the process is forked.
_measuring: Final = threading.Lock()
os.register_at_fork(before=_measuring.acquire, after_in_parent=_measuring.release, after_in_child=_measuring.release)
