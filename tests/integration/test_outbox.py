"""A trail, an outbox, observers: an alert from the event to the receipt."""

import itertools
from pathlib import Path
from typing import Any

import anyio
import pytest

from fapilog import (
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    AuditTrail,
    DeliveryReport,
    OutboxError,
    PermanentDeliveryError,
    TransientDeliveryError,
    alert_attempted,
    alert_dispatched,
    compliance_alert,
)
from fapilog.core._incidents import is_own
from fapilog.delivery.fanout import FanOut
from fapilog.delivery.outbox import Outbox
from fapilog.delivery.outbox._file.place import OutboxFile
from tests.doubles.scripted_dispatcher import Scripted


def now() -> float:
    return 1_750_000_000.0 + anyio.current_time()


async def alarm(trail: AuditTrail, message: str = "m") -> str:
    return await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, message)


async def test_attempts_reach_the_observers(tmp_path: Path) -> None:
    """The trail reports once that the outbox has the alert, and then each attempt of the outbox, until it arrived."""
    taken: list[DeliveryReport] = []
    tried: list[DeliveryReport] = []

    def take(_: AuditTrail, *, report: DeliveryReport) -> None:
        taken.append(report)

    def attempt(_: AuditTrail, *, report: DeliveryReport) -> None:
        tried.append(report)

    inner = Scripted(TransientDeliveryError("busy"), None)
    outbox = Outbox(inner, tmp_path / "alerts.db", name="slack", now=now)
    async with AuditTrail(storage_path=tmp_path / "trail", alert_dispatcher=outbox) as trail:
        alert_dispatched.connect(take, sender=trail)
        alert_attempted.connect(attempt, sender=trail)
        event_id = await alarm(trail)
        await anyio.sleep(60)
    assert [(report.event.event_id, report.outcome) for report in taken] == [(event_id, "dispatched")]
    assert [(report.target, report.attempt, report.outcome) for report in tried] == [
        ("slack", 1, "transient"),
        ("slack", 2, "dispatched"),
    ]


@pytest.mark.slow_on_trio
async def test_metrics_see_all_of_it(tmp_path: Path) -> None:
    """The metrics count the attempts, and show what is pending and dead in the outbox."""
    prometheus_client = pytest.importorskip("prometheus_client")
    from fapilog.observers import metrics  # noqa: PLC0415  needs the extra

    registry = prometheus_client.CollectorRegistry()
    inner = Scripted(TransientDeliveryError("busy"))
    outbox = Outbox(inner, tmp_path / "alerts.db", name="slack", now=now)
    async with AuditTrail(storage_path=tmp_path / "trail", alert_dispatcher=outbox) as trail:
        with metrics.connect(sender=trail, registry=registry, outboxes=[outbox]):
            await alarm(trail)
            await anyio.sleep(300)
            labels = {"target": "slack", "outcome": "transient"}
            tried = registry.get_sample_value("fapilog_alert_attempts_total", labels)
            assert tried == len(inner.calls) >= 3
            assert registry.get_sample_value("fapilog_outbox_pending", {"outbox": "slack"}) == 1
            inner.outcomes = [PermanentDeliveryError("gone")]
            await anyio.sleep(3600)
            # It, and what tells of that.
            assert registry.get_sample_value("fapilog_outbox_dead", {"outbox": "slack"}) == 2


@pytest.mark.slow_on_trio
async def test_a_dead_alert_is_told_of_once(tmp_path: Path) -> None:
    """When the outbox gives up alerts people are told once, and again when all of them were seen to."""
    inner = Scripted(answer=lambda event: None if is_own(event) else PermanentDeliveryError("gone"))
    outbox = Outbox(inner, tmp_path / "alerts.db", now=now)
    async with AuditTrail(storage_path=tmp_path / "trail", alert_dispatcher=outbox) as trail:
        ids = [await alarm(trail) for _ in range(20)]
        await anyio.sleep(60)
        dead = await outbox.dead()
        assert [alert.event_id for alert in dead] == ids
        told = [event_id for event_id in inner.ids if event_id not in ids]
        assert len(told) == 1
        await outbox.discard(ids, reason="a drill")
        await anyio.sleep(60)
        [recovery] = [event for event in await trail.get_events() if is_own(event)]
        assert recovery.event_type is AuditEventType.COMPONENT_RECOVERY
        assert recovery.event_id in inner.ids
        assert len([event_id for event_id in inner.ids if event_id not in ids]) == 2


@pytest.mark.slow_on_trio
async def test_dead_alerts_outlive_a_restart(tmp_path: Path) -> None:
    """What was dead before a restart, and seen to after it, is one incident: one failure in all runs, one recovery."""
    inner = Scripted(answer=lambda event: None if is_own(event) else PermanentDeliveryError("gone"))

    def make() -> tuple[Outbox, AuditTrail]:
        outbox = Outbox(inner, tmp_path / "alerts.db", now=now)
        return outbox, AuditTrail(storage_path=tmp_path / "trail", alert_dispatcher=outbox)

    ids = []
    for _ in range(3):
        outbox, trail = make()
        async with trail:
            ids.append(await alarm(trail))
            await anyio.sleep(60)
            assert len(inner.ids) == len(ids) + 1
    outbox, trail = make()
    async with trail:
        await anyio.sleep(60)
        assert len(inner.ids) == len(ids) + 1
        await outbox.discard(ids, reason="a drill")
        await anyio.sleep(60)
        [recovery] = [event for event in await trail.get_events() if is_own(event)]
    assert recovery.operation == "dead alerts in the outbox alerts"
    [failure, told] = [event_id for event_id in inner.ids if event_id not in ids]
    assert recovery.metadata["incident"] == failure
    assert recovery.event_id == told


@pytest.mark.slow_on_trio
async def test_a_file_that_is_repaired_before_a_restart(tmp_path: Path) -> None:
    """An outbox that could not use its file, or grew old, says at the next start that this is over."""
    inner = Scripted(answer=lambda event: TransientDeliveryError("down") if down else None)
    path, down = tmp_path / "alerts.db", True
    told: list[AuditEvent] = []

    def take(_: object, *, event: AuditEvent, **__: object) -> None:
        told.append(event)

    def make() -> AuditTrail:
        outbox = Outbox(inner, path, now=now, old_after=300.0, lease=86_400.0)
        trail = AuditTrail(storage_path=tmp_path / "trail", alert_dispatcher=outbox)
        compliance_alert.connect(take, sender=trail, weak=False)
        return trail

    async with make() as trail:
        await alarm(trail)
        await anyio.sleep(1000)
    path.rename(tmp_path / "aside.db")
    path.mkdir()
    async with make() as trail:
        await trail.log_event(AuditEventType.DATA_ACCESS, "m")
        await trail.drain()
    path.rmdir()
    down = False
    (tmp_path / "aside.db").rename(path)
    async with make() as trail:
        await anyio.sleep(60_000)
        await trail.drain()
    own = [event for event in told if is_own(event)]
    failures = {event.operation: event.event_id for event in own if event.log_level is AuditLogLevel.CRITICAL}
    recoveries = {event.operation: event.metadata["incident"] for event in own if event.log_level is AuditLogLevel.INFO}
    assert failures == recoveries
    assert {"the file of the outbox alerts", "the age of the outbox alerts"} <= failures.keys()
    assert len(own) == 2 * len(failures)


@pytest.mark.slow_on_trio
@pytest.mark.parametrize("every", [2, 3, 5])
async def test_a_file_that_takes_every_other_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """On a disk that is nearly full, the alerts about that do not feed themselves, though they go by that file."""
    run, calls = OutboxFile.run, itertools.count(1)

    def run_or_fail(file: OutboxFile, *args: Any, **options: Any) -> Any:
        number = next(calls)
        if number <= 500 and number % every == 0:
            raise OutboxError("the disk is full")
        return run(file, *args, **options)

    monkeypatch.setattr(OutboxFile, "run", run_or_fail)
    inner = Scripted()
    outbox = Outbox(inner, tmp_path / "alerts.db", now=now)
    trail = AuditTrail(storage_path=tmp_path / "trail", alert_dispatcher=outbox)
    trail._alerts.health._clock = anyio.current_time
    async with trail:
        event_id = await alarm(trail)
        await anyio.sleep(600)
    assert event_id in inner.ids
    # Incidents that last for 0, 1, 2, 4 ... 256 s have two alerts each; 5 s pass between two attempts to use the file.
    assert len(set(inner.ids)) <= 21


@pytest.mark.slow_on_trio
async def test_outboxes_side_by_side(tmp_path: Path) -> None:
    """Each of two outboxes in one file gets what it lacks after a crash, whatever becomes of it in the other."""
    path = tmp_path / "alerts.db"
    good, bad = Scripted(), Scripted(PermanentDeliveryError("gone"))

    def trail() -> AuditTrail:
        both = FanOut([Outbox(good, path, name="good", now=now), Outbox(bad, path, name="bad", now=now)])
        return AuditTrail(storage_path=tmp_path / "trail", alert_dispatcher=both)

    async with trail():
        pass
    ids = [await alarm(AuditTrail(storage_path=tmp_path / "trail")) for _ in range(3)]  # a process that is killed
    async with trail() as last:
        await last.drain()
        await anyio.sleep(60)
    assert sorted(event_id for event_id in good.ids if event_id in ids) == sorted(ids)
    assert sorted(event_id for event_id in bad.ids if event_id in ids) == sorted(ids)
    dead = await Outbox(bad, path, name="bad", now=now).dead()
    assert {alert.event_id for alert in dead} >= set(ids)
