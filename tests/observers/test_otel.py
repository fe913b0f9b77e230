"""Alerts as metrics of OpenTelemetry."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk.metrics")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    NumberDataPoint,
)

from fapilog import AlertTimeoutError, AuditEvent, AuditEventType, AuditTrail
from fapilog.observers import _labels, otel
from fapilog.testing import RecordingDispatcher
from tests.doubles.observed_alerts import EVENT, PRIVATE, announce, attempt, finish
from tests.doubles.observed_outboxes import Counted, kept, sent

ABOUT = {"fapilog.severity": "security", "fapilog.event_type": "authentication_failed"}


class Meters:
    """A provider of meters, and what was measured with them."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False)

    def metrics(self) -> dict[str, Metric]:
        data = self._reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        assert {scope.scope.name for scope in scopes} <= {"fapilog"}
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def counts(self, name: str) -> list[tuple[dict[str, Any], float]]:
        points = self.metrics()[name].data.data_points
        return [(dict(point.attributes or {}), point.value) for point in points if isinstance(point, NumberDataPoint)]

    def histogram(self, name: str) -> HistogramDataPoint:
        (point,) = self.metrics()[name].data.data_points
        assert isinstance(point, HistogramDataPoint)
        return point


@pytest.fixture
def meters() -> Iterator[Meters]:
    """Return meters of its own for the test."""
    meters = Meters()
    yield meters
    meters.provider.shutdown()


def test_counts_announcements(meters: Meters) -> None:
    """Each announcement is counted, by severity and type of event."""
    with otel.connect(meter_provider=meters.provider):
        announce()
        announce()
    assert meters.counts("fapilog.alerts.announced") == [(ABOUT, 2)]


@pytest.mark.parametrize(("error", "outcome"), [(None, "dispatched"), (OSError("SECRET"), "error")])
def test_counts_what_became_of_each(meters: Meters, error: Exception | None, outcome: str) -> None:
    """Each alert that has ended is counted, by severity, type of event and outcome."""
    with otel.connect(meter_provider=meters.provider):
        finish(error=error)
    assert meters.counts("fapilog.alerts.finished") == [(ABOUT | {"fapilog.outcome": outcome}, 1)]


def test_measures_seconds(meters: Meters) -> None:
    """The seconds that alerts waited and took are in buckets that are made for seconds."""
    with otel.connect(meter_provider=meters.provider):
        finish(waited=0.2, took=31.0, error=AlertTimeoutError(30))
    waited, took = meters.histogram("fapilog.alert.waited"), meters.histogram("fapilog.alert.took")
    assert waited.attributes == took.attributes == {"fapilog.severity": "security", "fapilog.outcome": "timeout"}
    assert (waited.sum, took.sum) == (0.2, 31.0)
    assert waited.explicit_bounds[waited.bucket_counts.index(1)] == 0.25
    assert took.explicit_bounds[took.bucket_counts.index(1)] == 60
    assert meters.metrics()["fapilog.alert.took"].unit == "s"


def test_counts_attempts(meters: Meters) -> None:
    """Each attempt is counted, by target and outcome."""
    with otel.connect(meter_provider=meters.provider):
        attempt(error=OSError(PRIVATE))
        attempt()
        attempt()
        attempt(target=None)
    assert meters.counts("fapilog.alert.attempts") == [
        ({"fapilog.target": "slack", "fapilog.outcome": "error"}, 1),
        ({"fapilog.target": "slack", "fapilog.outcome": "dispatched"}, 2),
        ({"fapilog.target": "other", "fapilog.outcome": "dispatched"}, 1),
    ]


def gauges(meters: Meters) -> dict[str, list[tuple[Any, float]]]:
    """Return what is measured of each outbox."""
    names = [name for name in meters.metrics() if name.startswith("fapilog.outbox.")]
    return {name.rpartition(".")[2]: [(*at.values(), value) for at, value in meters.counts(name)] for name in names}


def test_measures_outboxes(meters: Meters) -> None:
    """What is in each outbox is read when the metrics are collected, and no more after `disconnect`."""
    slack, pager = Counted("slack"), Counted("pager")
    with otel.connect(meter_provider=meters.provider, outboxes=[slack, pager]):
        slack.pending, slack.dead = 3, 2
        assert gauges(meters) == {
            "pending": [("slack", 3), ("pager", 0)],
            "oldest_pending": [("slack", 0), ("pager", 0)],
            "dead": [("slack", 2), ("pager", 0)],
        }
        assert meters.metrics()["fapilog.outbox.oldest_pending"].unit == "s"
        slack.oldest = time.time() - 60
        [(_, age), _] = gauges(meters)["oldest_pending"]
        assert 60 <= age < 90
    assert gauges(meters) == {}


def test_measures_replications(meters: Meters) -> None:
    """How far a replica is behind is read when the metrics are collected."""
    replica = Counted("database")
    with otel.connect(meter_provider=meters.provider, replications=[replica]):
        replica.pending = 3
        at = {"fapilog.replication": "database"}
        assert meters.counts("fapilog.replication.pending") == [(at, 3)]
        assert meters.counts("fapilog.replication.oldest_pending") == [(at, 0)]
        assert meters.metrics()["fapilog.replication.oldest_pending"].unit == "s"


def test_each_connection_has_its_outboxes(meters: Meters) -> None:
    """Outboxes are measured while their connection lasts, in its provider, whichever connection was the first."""
    other = Meters()
    with (
        otel.connect(meter_provider=meters.provider, outboxes=[Counted("pager")]),
        otel.connect(meter_provider=other.provider, outboxes=[Counted("mail")]),
    ):
        with otel.connect(meter_provider=meters.provider, outboxes=[Counted("slack")]):
            assert gauges(meters)["dead"] == [("pager", 0), ("slack", 0)]
        assert gauges(meters)["dead"] == [("pager", 0)]
        assert gauges(other)["dead"] == [("mail", 0)]
    with otel.connect(meter_provider=meters.provider, outboxes=[Counted("slack")]):
        assert gauges(meters)["dead"] == [("slack", 0)]
    other.provider.shutdown()


def test_outboxes_are_told_apart(meters: Meters) -> None:
    """Two outboxes of one name are refused, and nothing is connected."""
    with pytest.raises(ValueError, match=r"^outboxes: expected names of their own; got several that are called slack$"):
        otel.connect(meter_provider=meters.provider, outboxes=[Counted("slack"), Counted("slack")])
    announce()
    assert meters.metrics() == {}


@pytest.mark.slow_on_trio
@pytest.mark.real_time
async def test_the_state_of_an_outbox(tmp_path: Path, meters: Meters) -> None:
    """What a real outbox keeps is pending, what is refused is dead, and what is delivered is neither."""
    async with kept(tmp_path) as outbox:
        with otel.connect(meter_provider=meters.provider, outboxes=[outbox]):
            measured = gauges(meters)
            assert (measured["pending"], measured["dead"]) == ([("slack", 1)], [("slack", 1)])
            assert 100 <= measured["oldest_pending"][0][1] < 200
            await sent(outbox)
            assert set(map(tuple, gauges(meters).values())) == {(("slack", 0),)}


def test_attributes_are_bounded(meters: Meters, monkeypatch: pytest.MonkeyPatch) -> None:
    """Severities that are made up are one series, types beyond the first fifty too, and no attribute is of an event."""
    monkeypatch.setattr(_labels, "_own", set())
    with otel.connect(meter_provider=meters.provider):
        for number in range(100):
            odd = AuditEvent(event_type=f"made.up{number}", message="")  # type: ignore[arg-type]
            announce(event=odd, severity=f"made.up{number}")
        finish(error=OSError(PRIVATE))
    other = {"fapilog.severity": "other", "fapilog.event_type": "other"}
    counts = meters.counts("fapilog.alerts.announced")
    assert len(counts) == 51
    assert (other, 50) in counts
    everything = str(meters.metrics())
    assert PRIVATE not in everything
    assert EVENT.event_id not in everything


def test_two_trails_one_provider(meters: Meters) -> None:
    """Two trails that are connected each on their own are counted together."""
    first, second = AuditTrail(), AuditTrail()
    with (
        otel.connect(sender=first, meter_provider=meters.provider),
        otel.connect(sender=second, meter_provider=meters.provider),
    ):
        announce(first)
        announce(second)
        announce(AuditTrail())
    assert meters.counts("fapilog.alerts.announced") == [(ABOUT, 2)]


@pytest.mark.slow
def test_the_global_provider_may_be_set_later() -> None:
    """Without a provider the metrics go to the global one, even if it is set after connecting."""
    # In a process of its own, since the global provider can be set only once.
    script = """if True:
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from fapilog.observers import otel
        from tests.doubles.observed_alerts import announce

        otel.connect()
        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
        announce()
        print(reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics[0].name)
    """
    root = Path(__file__).parents[2]
    child = subprocess.run([sys.executable, "-c", script], cwd=root, check=True, capture_output=True, text=True)
    assert child.stdout.split() == ["fapilog.alerts.announced"]


@pytest.mark.real_time
async def test_the_alerts_of_a_trail(tmp_path: Path, meters: Meters) -> None:
    """What a trail announces and what becomes of it are counted alike."""
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=RecordingDispatcher())
    with otel.connect(sender=trail, meter_provider=meters.provider):
        async with trail:
            for _ in range(5):
                await trail.log_security_event(AuditEventType.AUTHENTICATION_FAILED, "wrong password")
            await trail.log_event(AuditEventType.SYSTEM_STARTUP, "not an alert")
    assert meters.counts("fapilog.alerts.announced") == [(ABOUT, 5)]
    assert meters.counts("fapilog.alerts.finished") == [(ABOUT | {"fapilog.outcome": "dispatched"}, 5)]
    assert meters.histogram("fapilog.alert.took").count == 5


def test_a_sender_is_a_trail() -> None:
    """The name of a trail, from which no alert would ever come, is refused, and nothing is connected."""
    name: Any = "clinic"
    with pytest.raises(TypeError, match=r"^sender: expected an AuditTrail; got a str"):
        otel.connect(sender=name)
