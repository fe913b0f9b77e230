"""An alert does not feed itself: what its receivers and its dispatcher log is stored, and not announced."""

import logging
import math
from pathlib import Path

import anyio
import pytest

from fapilog import AuditEvent, AuditEventType, AuditLogLevel, AuditTrail, alert_dispatched, alert_failed
from fapilog.delivery.outbox import Outbox
from fapilog.testing import RecordingDispatcher

pytestmark = pytest.mark.parametrize("started", [True, False], ids=["started", "not_started"])
VIOLATION = AuditEventType.SECURITY_VIOLATION


class Down:
    """Fails, and may log that first."""

    def __init__(self, *, logs: bool = False) -> None:
        self.logs = logs
        self.trail: AuditTrail | None = None
        self.calls: list[str] = []

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        self.calls.append(event.message)
        if self.logs and self.trail is not None:
            await self.trail.log_security_event(VIOLATION, "from the dispatcher")
        raise ConnectionError


async def log(trail: AuditTrail, *, started: bool, message: str = "one") -> list[str]:
    """Log an alert, and return what is stored when all is quiet again."""
    with anyio.fail_after(50):
        if started:
            await trail.start()
        await trail.log_security_event(VIOLATION, message)
        await trail.drain()
        await anyio.sleep(5)
        stored = await trail.get_events()
        await trail.stop()
    return sorted(event.message for event in stored if event.event_type is VIOLATION)


@pytest.mark.may_block  # the plain one stores in the loop's thread
@pytest.mark.parametrize("kind", ["plain", "asynchronous", "in a task of its own"])
async def test_a_receiver_that_logs_that_an_alert_failed(tmp_path: Path, kind: str, *, started: bool) -> None:
    """A receiver of `alert_failed` may log an alerting event: it is stored, once, and nobody is called about it."""
    dispatcher = Down()
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=dispatcher)
    async with anyio.create_task_group() as tasks:

        async def record() -> None:
            await trail.log_security_event(VIOLATION, "it failed")

        async def asynchronous(_: object, **__: object) -> None:
            await record()

        def plain(_: object, **__: object) -> None:
            trail.sync.log_security_event(VIOLATION, "it failed")

        def spawning(_: object, **__: object) -> None:
            tasks.start_soon(record)

        receiver = {"plain": plain, "asynchronous": asynchronous}.get(kind, spawning)
        alert_failed.connect(receiver, sender=trail)
        stored = await log(trail, started=started)
    calls = [message for message in dispatcher.calls if message in {"one", "it failed"}]
    assert calls == ["one"]
    # The alert about the incident "alerts are not delivered" has failed as well.
    assert set(stored) == {"one", "it failed"}
    assert len(stored) <= 3


async def test_a_dispatcher_that_logs(tmp_path: Path, *, started: bool) -> None:
    """What a dispatcher logs is stored and not sent to it again."""
    dispatcher = Down(logs=True)
    trail = dispatcher.trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=dispatcher)
    stored = await log(trail, started=started)
    assert "from the dispatcher" not in dispatcher.calls
    assert "from the dispatcher" in stored


async def test_a_handler_of_the_log(tmp_path: Path, *, started: bool) -> None:
    """A handler that records each line of the log as an alerting event is given no line about itself."""
    dispatcher = Down()
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=dispatcher)

    class ToTheTrail(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            trail.sync.log_security_event(VIOLATION, "a line")

    handler = ToTheTrail()
    logging.getLogger("fapilog").addHandler(handler)
    try:
        stored = await log(trail, started=started)
    finally:
        logging.getLogger("fapilog").removeHandler(handler)
    assert "a line" not in dispatcher.calls
    assert "a line" in stored
    assert len(stored) < 6


@pytest.mark.slow_on_trio
async def test_an_outbox_does_not_take_it_from_the_trail_either(tmp_path: Path, *, started: bool) -> None:
    """An outbox that lacks an alert about such an event does not get it at the next start."""
    dispatcher = Down(logs=True)

    def make(inner: Down | RecordingDispatcher) -> AuditTrail:
        outbox = Outbox(
            inner, tmp_path / "alerts.db", name="pager", schedule=[1000.0], lease=600.0, now=anyio.current_time
        )
        return AuditTrail(storage_path=tmp_path / "audit", alert_dispatcher=outbox)

    trail = dispatcher.trail = make(dispatcher)
    assert "from the dispatcher" in await log(trail, started=started)
    later = RecordingDispatcher()
    async with make(later) as trail:
        await trail.drain()
        await anyio.sleep(5000)
    assert {alert.event.message for alert in later.alerts if alert.event.event_type is VIOLATION} == {"one"}


async def test_another_trail_announces(tmp_path: Path, *, started: bool) -> None:
    """A receiver of one trail may log into another one, whose people are told."""
    dispatcher = RecordingDispatcher()
    other = AuditTrail(storage_path=tmp_path / "other", alert_dispatcher=dispatcher)

    async def record(_: object, **__: object) -> None:
        await other.log_security_event(VIOLATION, "the pager is down")

    trail = AuditTrail(storage_path=tmp_path / "audit", alert_dispatcher=Down())
    alert_failed.connect(record, sender=trail)
    await log(trail, started=started)
    assert {alert.event.message for alert in dispatcher.alerts} == {"the pager is down"}
    await other.stop()


@pytest.mark.parametrize("timeout", [10, math.inf])
async def test_a_worker_that_a_receiver_has_started_is_heard_again(
    tmp_path: Path, timeout: float, *, started: bool
) -> None:
    """What a long-lived task logs that a receiver has started is announced when the alert is an old story."""
    dispatcher = RecordingDispatcher()
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=dispatcher, alert_timeout=timeout)
    trail._alerts.aftermath.clock = anyio.current_time
    async with anyio.create_task_group() as tasks:

        async def work() -> None:
            await trail.log_event(VIOLATION, "at once", log_level=AuditLogLevel.CRITICAL)
            await anyio.sleep(min(timeout, 60) + 1)
            await trail.log_event(VIOLATION, "later", log_level=AuditLogLevel.CRITICAL)

        def once(_: object, **__: object) -> None:
            alert_dispatched.disconnect(once)
            tasks.start_soon(work)

        alert_dispatched.connect(once)
        if started:
            await trail.start()
        await trail.log_security_event(VIOLATION, "one")
        await trail.drain()
    await trail.drain()
    await trail.stop()
    assert [alert.event.message for alert in dispatcher.alerts] == ["one", "later"]


async def test_a_caller_can_not_write_the_note(tmp_path: Path, *, started: bool) -> None:
    """Metadata of a caller that look like the note silence nothing, now or at the next start, and are kept."""
    dispatcher = RecordingDispatcher()
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=dispatcher)
    if started:
        await trail.start()
    note = {"not_announced": "logged by what an alert has set going"}
    await trail.log_security_event(VIOLATION, "one", metadata=note)
    await trail.drain()
    (event,) = await trail.get_events()
    await trail.stop()
    assert [alert.event.message for alert in dispatcher.alerts] == ["one"]
    assert (event.metadata, event.not_announced) == (note, None)
