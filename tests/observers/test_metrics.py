"""Alerts as metrics for Prometheus."""

import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fapilog import (
    AlertBufferFullError,
    AlertCancelledError,
    AlertStoppedError,
    AlertTimeoutError,
    AmbiguousDeliveryError,
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    AuditTrail,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from fapilog.observers import _labels, metrics
from fapilog.testing import RecordingDispatcher
from tests.doubles.observed_alerts import EVENT, PRIVATE, announce, attempt, finish
from tests.doubles.observed_outboxes import Counted, kept, sent


@pytest.fixture
def registry() -> CollectorRegistry:
    """Return a registry of its own for the test."""
    return CollectorRegistry()


def count(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """Return the value of a series, 0 if there is none."""
    return registry.get_sample_value(name, labels) or 0.0


def test_counts_announcements(registry: CollectorRegistry) -> None:
    """Each announcement is counted, by severity and type of event."""
    with metrics.connect(registry=registry):
        announce()
        announce()
        announce(severity="critical")

        name, event_type = "fapilog_alerts_announced_total", "authentication_failed"
        assert count(registry, name, severity="security", event_type=event_type) == 2
        assert count(registry, name, severity="critical", event_type=event_type) == 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "dispatched"),
        (TransientDeliveryError("SECRET"), "transient"),
        (TransientDeliveryError("SECRET", retry_after=30.0), "throttled"),
        (PermanentDeliveryError("SECRET"), "permanent"),
        (AmbiguousDeliveryError("SECRET"), "ambiguous"),
        (OSError("SECRET"), "error"),
        (AlertTimeoutError(30), "timeout"),
        (AlertBufferFullError(1000), "buffer_full"),
        (AlertCancelledError(), "cancelled"),
        (AlertStoppedError(), "stopped"),
    ],
)
def test_counts_what_became_of_each(registry: CollectorRegistry, error: Exception | None, outcome: str) -> None:
    """Each alert and each attempt is counted by its outcome, the alert also by severity and type of event."""
    with metrics.connect(registry=registry):
        finish(error=error)
        attempt(error=error)

        assert count(registry, "fapilog_alert_attempts_total", target="slack", outcome=outcome) == 1
        labels = {"severity": "security", "event_type": "authentication_failed", "outcome": outcome}
        assert count(registry, "fapilog_alerts_finished_total", **labels) == 1
        assert count(registry, "fapilog_alerts_announced_total", **labels) == 0


def test_measures_seconds(registry: CollectorRegistry) -> None:
    """The seconds that alerts waited and took are in the bucket that they belong to, and in the sum."""
    with metrics.connect(registry=registry):
        finish(waited=0.2, took=31.0, error=AlertTimeoutError(30))

        labels = {"severity": "security", "outcome": "timeout"}
        assert count(registry, "fapilog_alert_waited_seconds_sum", **labels) == 0.2
        assert count(registry, "fapilog_alert_waited_seconds_bucket", le="0.1", **labels) == 0
        assert count(registry, "fapilog_alert_waited_seconds_bucket", le="0.25", **labels) == 1
        assert count(registry, "fapilog_alert_took_seconds_sum", **labels) == 31.0
        assert count(registry, "fapilog_alert_took_seconds_bucket", le="30.0", **labels) == 0
        assert count(registry, "fapilog_alert_took_seconds_bucket", le="60.0", **labels) == 1


def test_counts_attempts(registry: CollectorRegistry) -> None:
    """Each attempt is counted, by target and outcome."""
    with metrics.connect(registry=registry):
        attempt(error=OSError(PRIVATE))
        attempt(error=OSError(PRIVATE))
        attempt()
        attempt(target="pager")
        attempt(target=None)

        name = "fapilog_alert_attempts_total"
        assert count(registry, name, target="slack", outcome="error") == 2
        assert count(registry, name, target="slack", outcome="dispatched") == 1
        assert count(registry, name, target="pager", outcome="dispatched") == 1
        assert count(registry, name, target="other", outcome="dispatched") == 1
        assert PRIVATE not in generate_latest(registry).decode()


def gauges(registry: CollectorRegistry, outbox: str) -> tuple[float | None, ...]:
    """Return what is measured of an outbox: pending, the age of the oldest, dead."""
    names = ("pending", "oldest_pending_seconds", "dead")
    return tuple(registry.get_sample_value(f"fapilog_outbox_{name}", {"outbox": outbox}) for name in names)


def test_measures_outboxes(registry: CollectorRegistry) -> None:
    """What is in an outbox is read when the metrics are asked for, and a clock that went back makes no age below 0."""
    slack, pager = Counted("slack"), Counted("pager")
    with metrics.connect(registry=registry, outboxes=[slack, pager]):
        assert gauges(registry, "slack") == (0, 0, 0)
        slack.pending, slack.oldest, slack.dead = 3, time.time() - 60, 2
        pager.pending, pager.oldest = 1, time.time() + 60
        pending, age, dead = gauges(registry, "slack")
        assert (pending, dead) == (3, 2)
        assert age is not None
        assert 60 <= age < 90
        assert gauges(registry, "pager") == (1, 0, 0)
    assert generate_latest(registry) == b""


def test_measures_replications(registry: CollectorRegistry) -> None:
    """How far a replica is behind is read when the metrics are asked for; its name may be that of an outbox."""
    replica = Counted("slack")
    with metrics.connect(registry=registry, outboxes=[Counted("slack")], replications=[replica]):
        replica.pending, replica.oldest = 3, time.time() - 60
        labels = {"replication": "slack"}
        assert registry.get_sample_value("fapilog_replication_pending", labels) == 3
        age = registry.get_sample_value("fapilog_replication_oldest_pending_seconds", labels)
        assert age is not None
        assert 60 <= age < 90
        assert gauges(registry, "slack") == (0, 0, 0)
    with pytest.raises(ValueError, match="replications: expected names of their own"):
        metrics.connect(registry=registry, replications=[replica, replica])


def test_outboxes_are_told_apart(registry: CollectorRegistry) -> None:
    """Two outboxes of one name are refused, and nothing is registered."""
    with pytest.raises(ValueError, match=r"^outboxes: expected names of their own; got several that are called slack$"):
        metrics.connect(registry=registry, outboxes=[Counted("slack"), Counted("pager"), Counted("slack")])
    assert generate_latest(registry) == b""


@pytest.mark.slow_on_trio
@pytest.mark.real_time
async def test_the_state_of_an_outbox(tmp_path: Path, registry: CollectorRegistry) -> None:
    """What a real outbox keeps is pending and has an age, what is refused is dead, and what is delivered is neither."""
    async with kept(tmp_path) as outbox:
        with metrics.connect(registry=registry, outboxes=[outbox]):
            pending, age, dead = gauges(registry, "slack")
            assert (pending, dead) == (1, 1)
            assert age is not None
            assert 100 <= age < 200
            await sent(outbox)
            assert gauges(registry, "slack") == (0, 0, 0)


def test_labels_are_bounded(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Severities that are made up are one series, types beyond the first fifty too, and no label is of an event."""
    monkeypatch.setattr(_labels, "_own", set())
    with metrics.connect(registry=registry):
        for number in range(100):
            odd = AuditEvent(event_type=f"made.up{number}", message="")  # type: ignore[arg-type]
            announce(event=odd, severity=f"made.up{number}")
        finish(error=OSError(PRIVATE))

        exposed = generate_latest(registry).decode()
        assert count(registry, "fapilog_alerts_announced_total", severity="other", event_type="other") == 50
        assert count(registry, "fapilog_alerts_announced_total", severity="other", event_type="made.up0") == 1
        assert exposed.count('event_type="made.up') == 2 * 50
        assert PRIVATE not in exposed
        assert EVENT.event_id not in exposed


def test_every_severity_and_type_has_its_label(registry: CollectorRegistry) -> None:
    """Each of our severities and types is counted under its own name."""
    with metrics.connect(registry=registry):
        for level in AuditLogLevel:
            for event_type in AuditEventType:
                announce(event=AuditEvent(event_type=event_type, message=""), severity=level.value)

        families = {
            family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())
        }
        samples = [
            sample
            for sample in families["fapilog_alerts_announced"].samples
            if sample.name == "fapilog_alerts_announced_total"
        ]
        assert len(samples) == len(AuditLogLevel) * len(AuditEventType)
        assert {sample.value for sample in samples} == {1.0}


def test_goes_to_the_default_registry() -> None:
    """Without a registry it is the one that prometheus_client serves, for as long as the connection lasts."""
    with metrics.connect():
        finish()
        assert b"fapilog_alerts_finished_total" in generate_latest(REGISTRY)
    assert b"fapilog_alert" not in generate_latest(REGISTRY)


def test_twice_in_one_registry_is_refused(registry: CollectorRegistry) -> None:
    """A second connection in one registry is an error that says what to do, and the first goes on."""
    with metrics.connect(registry=registry):
        with pytest.raises(ValueError, match=r"^registry: .* connect once without sender; .* disconnect the earlier"):
            metrics.connect(registry=registry)
        announce()
        labels = {"severity": "security", "event_type": "authentication_failed"}
        assert count(registry, "fapilog_alerts_announced_total", **labels) == 1


def test_refused_leaves_nothing(registry: CollectorRegistry) -> None:
    """Where one of the names is taken, none of the others is registered."""
    taken = Gauge("fapilog_alert_took_seconds", "Not ours.", registry=registry)
    with pytest.raises(ValueError, match="registry"):
        metrics.connect(registry=registry)
    registry.unregister(taken)
    assert generate_latest(registry) == b""


def test_connects_anew(registry: CollectorRegistry) -> None:
    """After `disconnect` the registry takes a new connection, which counts from zero."""
    with metrics.connect(registry=registry):
        announce()
    with metrics.connect(registry=registry):
        announce()
        labels = {"severity": "security", "event_type": "authentication_failed"}
        assert count(registry, "fapilog_alerts_announced_total", **labels) == 1


def test_two_trails_two_registries() -> None:
    """Each trail can be counted in a registry of its own."""
    trails, registries = (AuditTrail(), AuditTrail()), (CollectorRegistry(), CollectorRegistry())
    labels = {"severity": "security", "event_type": "authentication_failed", "outcome": "dispatched"}
    with (
        metrics.connect(sender=trails[0], registry=registries[0]),
        metrics.connect(sender=trails[1], registry=registries[1]),
    ):
        finish(trails[1])
        finish(trails[1])
        finish(trails[0])
        counts = [count(registry, "fapilog_alerts_finished_total", **labels) for registry in registries]
    assert counts == [1, 2]


@pytest.mark.real_time
async def test_the_alerts_of_a_trail(tmp_path: Path, registry: CollectorRegistry) -> None:
    """What a trail announces and what becomes of it are counted alike."""
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=RecordingDispatcher())
    with metrics.connect(sender=trail, registry=registry):
        async with trail:
            for _ in range(5):
                await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "the door is open")
            await trail.log_event(AuditEventType.SYSTEM_STARTUP, "not an alert")
        labels = {"severity": "security", "event_type": "security_violation"}
        assert count(registry, "fapilog_alerts_announced_total", **labels) == 5
        assert count(registry, "fapilog_alerts_finished_total", **labels, outcome="dispatched") == 5
        times = {"severity": "security", "outcome": "dispatched"}
        assert count(registry, "fapilog_alert_waited_seconds_count", **times) == 5
        assert count(registry, "fapilog_alert_took_seconds_count", **times) == 5


def test_a_sender_is_a_trail(registry: CollectorRegistry) -> None:
    """The name of a trail, from which no alert would ever come, is refused, and nothing is connected."""
    name: Any = "clinic"
    with pytest.raises(TypeError, match=r"^sender: expected an AuditTrail; got a str"):
        metrics.connect(sender=name, registry=registry)
    metrics.connect(registry=registry).disconnect()
