"""An event loop that is closed before its trail was stopped: nothing of it comes back, and nothing waits for it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fapilog import (
    AlertDispatcher,
    AlertStoppedError,
    AuditEvent,
    AuditEventType,
    AuditTrail,
    CompliancePolicy,
    DeliveryReport,
    Threshold,
    alert_failed,
    compliance_alert,
)
from fapilog.delivery.digest import Digest
from fapilog.delivery.outbox import Outbox
from fapilog.record.damage import DamagedRecord
from fapilog.storage.memory import MemoryStorage
from fapilog.storage.protocol import EventFilter
from fapilog.tasks import portal
from fapilog.tasks.loops import Loop
from fapilog.testing import RecordingDispatcher
from tests.doubles.dispatchers import Keeping

KIND = AuditEventType.SECURITY_VIOLATION


def in_a_closed_loop(call: Callable[[], Coroutine[Any, Any, object]], after: Callable[[], object] = bool) -> None:
    """Await ``call()`` in a loop, call *after*, and close the loop around the tasks that are left."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(call())
    after()
    loop.close()


def wrapped_in_nothing(inner: AlertDispatcher, _: Path) -> AlertDispatcher:
    return inner


def wrapped_in_digest(inner: AlertDispatcher, _: Path) -> AlertDispatcher:
    return Digest(inner)


def wrapped_in_outbox(inner: AlertDispatcher, directory: Path) -> AlertDispatcher:
    return Outbox(inner, directory / "alerts.db")


WRAPPERS = pytest.mark.parametrize("wrapped", [wrapped_in_nothing, wrapped_in_digest, wrapped_in_outbox])


@WRAPPERS
def test_the_trail_sends_by_itself_from_then_on(
    wrapped: Callable[[AlertDispatcher, Path], AlertDispatcher], tmp_path: Path
) -> None:
    """Not started anew, every later alert is sent before `log_event` returns, whatever is around the dispatcher."""
    inner = RecordingDispatcher()
    trail = AuditTrail(storage_path=tmp_path / "trail", alert_dispatcher=wrapped(inner, tmp_path))

    async def log() -> None:
        for number in range(3):
            await trail.log_event(KIND, str(number), log_level="security")

    in_a_closed_loop(trail.start)
    asyncio.run(log())
    assert [alert.event.message for alert in inner.alerts] == ["0", "1", "2"]


@WRAPPERS
def test_the_trail_can_be_started_in_another_loop(
    wrapped: Callable[[AlertDispatcher, Path], AlertDispatcher], tmp_path: Path
) -> None:
    """Started anew, it sends and stops as the first time, whatever is around the dispatcher."""
    inner = RecordingDispatcher()
    trail = AuditTrail(storage_path=tmp_path / "trail", alert_dispatcher=wrapped(inner, tmp_path))

    async def live() -> None:
        async with trail:
            for number in range(3):
                await trail.log_event(KIND, str(number), log_level="security")

    in_a_closed_loop(trail.start)
    asyncio.run(live())
    # The digest has counted two of them in one summary.
    assert len(inner.alerts) == (2 if wrapped is wrapped_in_digest else 3)
    assert trail.sync.get_statistics()["alerts"] == {"dispatched": 3, "failed": 0, "waiting": 0}


def drained(trail: AuditTrail) -> None:
    anyio.run(trail.drain)


def at_the_exit(_: AuditTrail) -> None:
    portal.flush_all()


@pytest.mark.parametrize("end", [drained, at_the_exit])
def test_an_alert_that_was_to_be_sent_there_has_failed(tmp_path: Path, end: Callable[[AuditTrail], None]) -> None:
    """An alert whose task never began is reported by `drain`, which does not wait for it, or by the exit at last."""
    inner = RecordingDispatcher()
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=inner)
    reports: list[DeliveryReport] = []

    def note(_: object, report: DeliveryReport) -> None:
        reports.append(report)

    alert_failed.connect(note, sender=trail)
    in_a_closed_loop(trail.start, after=lambda: trail.sync.log_security_event(KIND, "lost"))
    end(trail)
    assert [type(report.error) for report in reports] == [AlertStoppedError]

    async def live() -> None:
        async with trail:
            await trail.log_security_event(KIND, "sent")

    anyio.run(live)
    assert [alert.event.message for alert in inner.alerts] == ["sent"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("is_closed", [False, True], ids=["stands still", "is closed meanwhile"])
def test_drain_does_not_wait_for_ever_for_another_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, *, is_closed: bool
) -> None:
    """It says that the trail's loop does not run; where that loop is closed, the alerts have failed."""
    monkeypatch.setattr(portal, "_LOOK_EVERY", 0.01)
    monkeypatch.setattr(portal, "_PATIENCE", 60.0 if is_closed else 0.1)
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=RecordingDispatcher())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(trail.start())
    trail.sync.log_security_event(KIND, "for a loop that does not run")

    async def drain() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(trail.drain)
            await anyio.wait_all_tasks_blocked()
            if is_closed:
                loop.close()

    if is_closed:
        anyio.run(drain, backend=backend)
        assert trail.sync.get_statistics()["alerts"] == {"dispatched": 0, "failed": 1, "waiting": 0}
        return
    with pytest.raises(ExceptionGroup) as raised:
        anyio.run(drain, backend=backend)
    assert [str(error) for error in raised.value.exceptions] == [
        "the event loop does not run, or is blocked: no answer for 0.1 s"
    ]
    loop.run_until_complete(trail.drain())
    assert trail.sync.get_statistics()["alerts"] == {"dispatched": 1, "failed": 0, "waiting": 0}
    loop.run_until_complete(trail.stop())
    loop.close()


def test_counts_that_a_digest_can_no_longer_send_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log has the number and the records of the alerts that were counted there, and would be in a summary."""
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=Digest(RecordingDispatcher()))

    async def begin() -> None:
        await trail.start()
        for number in range(3):
            await trail.log_security_event(KIND, str(number))
        await trail.drain()

    in_a_closed_loop(begin)
    asyncio.run(trail.start())
    assert "a summary of 2 alerts, records 2 to 3, is lost: the event loop was closed" in caplog.text


def test_a_receiver_that_was_under_way_does_not_keep_the_trail_from_stopping(tmp_path: Path) -> None:
    """A receiver whose last words would be awaited is left in its loop, and the trail is stopped all the same."""
    trail = AuditTrail(storage_path=tmp_path)

    async def receive(_: object, **__: object) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.lowlevel.checkpoint()

    async def begin() -> None:
        await trail.start()
        await trail.log_security_event(KIND, "received")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    with compliance_alert.connected_to(receive, sender=trail):
        in_a_closed_loop(begin)
        anyio.run(trail.stop)
    assert not trail.is_started


def test_the_replication_continues_in_another_loop(tmp_path: Path) -> None:
    """Started anew, the trail copies its records into the replica, and can be stopped."""
    replica = MemoryStorage()
    trail = AuditTrail(storage_path=tmp_path, replica=replica)

    async def live() -> None:
        async with trail:
            await trail.log_event(AuditEventType.DATA_ACCESS, "copied")

    in_a_closed_loop(trail.start)
    asyncio.run(live())
    assert [each.message for each in asyncio.run(replica.read(0, 10)) if isinstance(each, AuditEvent)] == ["copied"]


def test_synchronous_code_starts_the_replication_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The next call of `trail.sync` starts the trail, as its first call would; an asynchronous call only says so."""
    replica = MemoryStorage()
    trail = AuditTrail(storage_path=tmp_path, replica=replica)
    in_a_closed_loop(trail.start)
    asyncio.run(trail.drain())
    assert "nothing copies its records, until it is started again" in caplog.text
    asyncio.run(trail.log_event(AuditEventType.DATA_ACCESS, "1"))
    assert not trail.is_started
    trail.sync.log_event(AuditEventType.DATA_ACCESS, "2")
    trail.sync.stop()
    copied = asyncio.run(replica.read(0, 10))
    assert [each.message for each in copied if isinstance(each, AuditEvent)] == ["1", "2"]


class _Hanging(MemoryStorage):
    """Hangs when it is searched, as long as it is told to."""

    hangs = False

    async def find(self, wanted: EventFilter, limit: int) -> list[AuditEvent | DamagedRecord]:
        if self.hangs:
            await anyio.sleep_forever()
        return await super().find(wanted, limit)


def test_rules_are_applied_in_another_loop() -> None:
    """A task that was counting there is not waited for: another one counts what it has not."""
    storage, inner = _Hanging(), RecordingDispatcher()
    policy = CompliancePolicy(rules=[Threshold("data_access", count=2, within=60, name="two")])
    trail = AuditTrail(policy, storage=storage, alert_dispatcher=inner)

    def log() -> Awaitable[str]:
        return trail.log_event(AuditEventType.DATA_ACCESS, "counted")

    async def begin() -> None:
        storage.hangs = True
        await trail.start()
        await log()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def live() -> None:
        storage.hangs = False
        async with trail:
            await log()
            await trail.drain()

    in_a_closed_loop(begin)
    asyncio.run(live())
    assert [alert.event.message for alert in inner.alerts] == ["Threshold reached: two"]


@pytest.mark.parametrize("steps", range(1, 10))
def test_an_alert_is_resent_wherever_its_loop_was_closed_around_it(steps: int) -> None:
    """After any step of a call whose loop is closed, the next start resends its alert, and waits for nothing."""
    dispatcher = Keeping()
    trail = AuditTrail(storage=MemoryStorage(), alert_dispatcher=dispatcher)

    async def alert() -> None:
        async with trail:
            await trail.log_security_event(KIND, "m")
            await trail.drain()

    async def call() -> None:
        Loop.current().spawn(lambda: trail.log_security_event(KIND, "m"), ended=bool)
        for _ in range(steps):
            await asyncio.sleep(0)

    asyncio.run(alert())
    in_a_closed_loop(call)
    asyncio.run(alert())
    assert {*dispatcher.numbers} == {event.sequence_number for event in trail.sync.get_events()}
    assert trail.sync.get_statistics()["alerts"]["waiting"] == 0


async def test_an_event_is_no_longer_expected_when_its_loop_is_closed() -> None:
    """A wait for an event to be announced ends when the loop of its call is closed, before the wait or meanwhile."""
    forwarder = AuditTrail(storage=MemoryStorage())._alerts.forwarder
    loop = asyncio.new_event_loop()

    async def expect() -> None:
        forwarder.expect("1")

    await anyio.to_thread.run_sync(loop.run_until_complete, expect())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(forwarder.until_announced)
        await anyio.wait_all_tasks_blocked()
        loop.close()
    await forwarder.until_announced()


def test_an_outbox_withholds_no_alert_of_a_call_whose_loop_was_closed(tmp_path: Path) -> None:
    """An alert is not sent from the outbox while a call brings it, and a call whose loop is closed brings nothing."""
    store = Outbox(RecordingDispatcher(), tmp_path / "alerts.db")._store

    async def take() -> None:
        with store.taking("1"):
            await asyncio.get_running_loop().create_future()

    async def call() -> None:
        Loop.current().spawn(take, ended=bool)
        await asyncio.sleep(0)
        assert store.withheld == {"1"}

    in_a_closed_loop(call)
    assert store.withheld == set()
