"""A storage that is not closed in time holds nobody."""

from pathlib import Path

import anyio
import pytest

from fapilog import AuditEventType, AuditTrail
from fapilog.storage.memory import MemoryStorage
from fapilog.storage.replication import Replication
from fapilog.testing import RecordingDispatcher


class NeverClosed(MemoryStorage):
    """Waits for ever in `aclose`, which counts how often it was cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled = 0

    async def aclose(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.cancelled += 1


@pytest.mark.parametrize("is_started", [True, False])
async def test_a_trail_is_stopped_although_its_storage_is_not(
    caplog: pytest.LogCaptureFixture, *, is_started: bool
) -> None:
    """`stop` returns five seconds later, having sent the alerts, and the log says that the storage may be open."""
    dispatcher = RecordingDispatcher()
    trail = AuditTrail(storage=(storage := NeverClosed()), alert_dispatcher=dispatcher)
    if is_started:
        await trail.start()
    await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
    began = anyio.current_time()
    await trail.stop()
    assert anyio.current_time() - began == pytest.approx(5, abs=0.1)
    assert not trail.is_started
    assert len(dispatcher.alerts) == storage.cancelled == 1
    assert caplog.messages == ["a NeverClosed may still be open: closing it took more than 5 s"]


@pytest.mark.parametrize("is_started", [True, False])
async def test_a_cancellation_is_not_swallowed_by_that(*, is_started: bool) -> None:
    """A caller of `stop` that is cancelled while the storage is being closed is cancelled."""
    trail = AuditTrail(storage=(storage := NeverClosed()))
    if is_started:
        await trail.start()
    with anyio.move_on_after(1) as scope:
        await trail.stop()
    assert scope.cancelled_caught
    assert storage.cancelled == 1
    assert not trail.is_started


async def test_a_replica_that_is_never_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A trail whose replica is not closed in time is stopped, and its own files are closed."""
    async with AuditTrail(storage_path=tmp_path, replica=(replica := NeverClosed())) as trail:
        await trail.log_event(AuditEventType.DATA_ACCESS, "m")
    assert len(replica.events) == replica.cancelled == 1
    assert caplog.messages == ["a NeverClosed may still be open: closing it took more than 5 s"]


async def test_an_error_of_closing_is_raised(tmp_path: Path) -> None:
    """A storage that can't be closed is no storage that takes long: its exception is raised, once all is stopped."""

    class Broken(MemoryStorage):
        async def aclose(self) -> None:
            raise ConnectionError("lost")

    trail = AuditTrail(storage=Broken())
    await trail.start()
    with pytest.raises(ConnectionError, match="lost"):
        await trail.stop()
    assert not trail.is_started
    with pytest.raises(ConnectionError, match="lost"):
        async with Replication(tmp_path, Broken()):
            pass
