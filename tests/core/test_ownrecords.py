"""What a trail records about itself under PCI DSS."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from fapilog import AuditEvent, AuditEventType, AuditStorageError, AuditTrail, CompliancePolicy
from fapilog.storage.memory import MemoryStorage
from fapilog.testing import RecordingDispatcher
from tests.doubles.failing_storage import FailingStorage


@pytest.fixture(autouse=True)
def _begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out that a trail begins, which is a record of another kind."""
    monkeypatch.setattr("fapilog.core._watch.Watch.begins", lambda *_: None)


def pci(**options: Any) -> AuditTrail:
    """Return a trail under PCI DSS."""
    return AuditTrail(CompliancePolicy("pci_dss"), **options)  # type: ignore[arg-type]


def own(storage: MemoryStorage) -> list[tuple[str, str | None]]:
    """Return the type and the operation of the events that the trail has recorded about itself."""
    kinds = (AuditEventType.AUDIT_LOG_LIFECYCLE, AuditEventType.AUDIT_LOG_ACCESS)
    return [(event.event_type.value, event.operation) for event in storage.events if event.event_type in kinds]


START, STOP = ("audit_log_lifecycle", "start"), ("audit_log_lifecycle", "stop")


async def test_start_and_stop() -> None:
    """Each start and stop is recorded, once, around the events in between."""
    storage = MemoryStorage()
    trail = pci(storage=storage)
    await trail.stop()
    for _ in range(2):
        async with trail:
            await trail.start()
            await trail.log_event("data_access", "read")
        await trail.stop()
    kinds = [event.event_type.value for event in storage.events]
    assert kinds == ["audit_log_lifecycle", "data_access", "audit_log_lifecycle"] * 2
    assert own(storage) == [START, STOP] * 2


async def test_started_by_several_tasks() -> None:
    """A trail that several tasks start and stop at once is started and stopped once."""
    storage = MemoryStorage()
    trail = pci(storage=storage)
    for call in (trail.start, trail.stop):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(call)
    assert own(storage) == [START, STOP]


async def test_a_cancelled_stop() -> None:
    """A trail that is left by a cancellation records its stop, too."""
    storage = MemoryStorage()
    with anyio.CancelScope() as scope:
        async with pci(storage=storage):
            scope.cancel()
            await anyio.sleep_forever()
    assert own(storage) == [START, STOP]


class Refusing(RecordingDispatcher):
    """Can't be entered at first."""

    refuses = True

    async def __aenter__(self) -> None:
        if self.refuses:
            raise OSError("no")

    async def __aexit__(self, *_: object) -> None:
        pass


async def test_a_start_that_fails() -> None:
    """A trail that could not be started has neither a start nor a stop, and its next start is recorded."""
    storage, dispatcher = MemoryStorage(), Refusing()
    trail = pci(storage=storage, alert_dispatcher=dispatcher)
    with pytest.raises(OSError, match="no"):
        await trail.start()
    await trail.stop()
    dispatcher.refuses = False
    async with trail:
        pass
    assert own(storage) == [START, STOP]


@pytest.mark.slow
def test_a_stop_right_after_the_alert_that_starts_the_trail(tmp_path: Path) -> None:
    """Without an event loop, a trail that is stopped while its first alert starts it is stopped, and says so."""
    for number in range(20):
        dispatcher = RecordingDispatcher()
        trail = pci(storage_path=tmp_path / str(number), alert_dispatcher=dispatcher)
        trail.sync.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
        trail.sync.stop()
        assert not trail.is_started
        assert "m" in [alert.event.message for alert in dispatcher.alerts]


@pytest.mark.slow_on_trio
async def test_each_read() -> None:
    """Each question is recorded once, after it was answered, with its conditions."""
    storage = MemoryStorage()
    trail = pci(storage=storage)
    for _ in range(1_001):
        await storage.append(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="read", user_id="alice"))
    assert len(await trail.get_events(user_id="alice", limit=5)) == 5
    assert len([event async for event in trail.events(target="patient/42")]) == 0
    assert len([event async for event in trail.events(oldest_first=True)]) == 1_004
    assert await trail.count_by("user_id") == {"alice": 1_001, "": 3}
    trail.events(user_id="nobody reads on")
    await trail.head()
    await trail.get_statistics()
    await trail.verify_chain_from_storage()
    reads = storage.events[1_001:]
    assert own(storage) == [
        ("audit_log_access", operation) for operation in ("get_events", "events", "events", "count_by")
    ]
    assert [event.metadata["conditions"] for event in reads] == [
        {"user_id": "alice"},
        {"target": "patient/42"},
        {},
        {"field": "user_id"},
    ]
    assert {event.outcome for event in reads} == {"success"}


def test_reads_without_a_loop(tmp_path: Path) -> None:
    """Synchronous code that starts and reads a trail is recorded in the same way."""
    trail = pci(storage_path=tmp_path)
    with trail.sync:
        assert len(trail.sync.get_events()) == 1
        assert len(list(trail.sync.events())) == 2
    found = AuditTrail(storage_path=tmp_path).sync.get_events()
    assert [event.operation for event in found] == ["stop", "events", "get_events", "start"]


async def test_a_read_that_fails() -> None:
    """An attempt to read is recorded as a failure."""
    storage = FailingStorage(is_unreadable=True)
    with pytest.raises(AuditStorageError, match="damaged"):
        await pci(storage=storage).get_events()
    (event,) = storage.events
    assert (event.event_type.value, event.outcome) == ("audit_log_access", "failure")


async def test_a_full_disk(caplog: pytest.LogCaptureFixture) -> None:
    """What can't be recorded keeps nobody from starting, reading and stopping a trail, and is logged."""
    async with pci(storage=FailingStorage(refuses=lambda _: True)) as trail:
        assert await trail.get_events() == []
    messages = [record.getMessage() for record in caplog.records if "that is not recorded" in record.getMessage()]
    assert len(messages) == 3


async def test_a_storage_that_hangs() -> None:
    """A storage that hangs delays a start and a stop by seconds."""
    before = anyio.current_time()
    async with pci(storage=FailingStorage(hangs=True)):
        pass
    assert anyio.current_time() - before == pytest.approx(10, abs=1)


@pytest.mark.parametrize("policy", [CompliancePolicy(), CompliancePolicy("pci_dss", enabled=False)])  # type: ignore[arg-type]
async def test_elsewhere(policy: CompliancePolicy) -> None:
    """Under any other level a trail records nothing about itself, and nothing if it is disabled."""
    storage = MemoryStorage()
    async with AuditTrail(policy, storage=storage) as trail:
        await trail.get_events()
        await trail.count_by("user_id")
    assert not storage.events
