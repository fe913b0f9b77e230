"""Each failure of the trail itself is announced once, and so is its recovery."""

import asyncio
import functools
import gc
import logging
import os
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from fapilog import (
    AuditChainVerificationResult,
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    AuditStorageError,
    AuditTrail,
    CompliancePolicy,
    DeliveryError,
    DeliveryReport,
    FileStorage,
    alert_attempted,
    alert_failed,
    compliance_alert,
)
from fapilog.core._incidentfiles import IncidentFiles
from fapilog.core._incidents import MOST_OPEN, STORING, VERIFICATION, Part
from fapilog.core.alerting import Reporter, reporter
from fapilog.record.incidents import is_recovery, subject_of
from tests.doubles.health import Rig

FAILURE, RECOVERY = AuditEventType.COMPONENT_FAILURE, AuditEventType.COMPONENT_RECOVERY

started_or_not = pytest.mark.parametrize("started", [True, False], ids=["started", "not_started"])


class Dispatcher:
    """Raises its `error` if it has one, and remembers what it was handed and what it took."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.handed: list[AuditEvent] = []
        self.taken: list[AuditEvent] = []
        self.severities: list[str] = []

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        self.handed.append(event)
        if self.error is not None:
            raise self.error
        self.taken.append(event)
        self.severities.append(severity)

    @property
    def own(self) -> list[AuditEvent]:
        """What it was handed about the trail itself."""
        return [event for event in self.handed if event.event_type in (FAILURE, RECOVERY)]


class Disk(FileStorage):
    """Keeps the events, and raises its `error`, if it has one, for those that it `refuses`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.error: BaseException | None = None
        self.verdict: AuditChainVerificationResult | Exception | None = None

    def refuses(self, event: AuditEvent) -> bool:
        return True

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        await anyio.lowlevel.checkpoint()
        if self.error is not None and self.refuses(event):
            raise self.error
        return await super().append(event, once=once)

    async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict or await super().verify(progress)


@pytest.fixture
def dispatcher() -> Dispatcher:
    """Return a dispatcher that takes all."""
    return Dispatcher()


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """Return a storage that can be told to fail."""
    return Disk(tmp_path / "audit")


@asynccontextmanager
async def trail_of(
    disk: Disk, dispatcher: Dispatcher, *, started: bool = True, policy: CompliancePolicy | None = None, **options: Any
) -> AsyncIterator[AuditTrail]:
    """Yield a trail, started or not."""
    trail = AuditTrail(policy, storage=disk, alert_dispatcher=dispatcher, **options)
    trail._alerts.health._clock = anyio.current_time
    if started:
        async with trail:
            yield trail
    else:
        yield trail
        await trail.stop()


async def log(trail: AuditTrail, message: str = "m", *, alerts: bool = False) -> str:
    level = AuditLogLevel.SECURITY if alerts else AuditLogLevel.INFO
    return await trail.log_event(AuditEventType.DATA_ACCESS, message, log_level=level)


async def log_in_vain(trail: AuditTrail, *, alerts: bool = False, error: type[Exception] = AuditStorageError) -> None:
    with pytest.raises(error):
        await log(trail, alerts=alerts)


def kinds(events: list[AuditEvent]) -> list[str]:
    return [event.event_type.value for event in events]


# -- storing


@started_or_not
@pytest.mark.parametrize("alerts", [True, False], ids=["alert", "quiet"])
async def test_a_storage_that_fails_and_works_again(
    disk: Disk, dispatcher: Dispatcher, *, alerts: bool, started: bool
) -> None:
    """However often storing fails, one alert says so, and one says that it works again, with start, end and cause."""
    async with trail_of(disk, dispatcher, started=started) as trail:
        disk.error = AuditStorageError("cannot append to /audit: No space left on device")
        for _ in range(5):
            await log_in_vain(trail, alerts=alerts)
            await trail.drain()
            assert kinds(dispatcher.taken) == ["component_failure"]
        disk.error = None
        for _ in range(5):
            await log(trail)
        await trail.drain()
        stored = await trail.get_events()

    failure, recovery = dispatcher.taken
    assert dispatcher.severities == ["critical", "info"]
    cause = "cannot append to /audit: No space left on device"
    assert (failure.event_type, failure.component, failure.operation) == (FAILURE, "audit_trail", "storing events")
    assert failure.message == f"the audit trail can't store events: {cause}"
    assert (failure.sequence_number, failure.checksum, failure.process_id) == (None, None, os.getpid())
    assert failure.metadata == {
        "incident": failure.event_id,
        "cause": cause,
        "started": failure.timestamp.isoformat(),
    }
    assert str(uuid.UUID(failure.metadata["incident"])) == failure.metadata["incident"]

    assert (recovery.event_type, recovery.component, recovery.operation) == (RECOVERY, "audit_trail", "storing events")
    assert recovery.message == (
        f"the audit trail stores events again, after {recovery.metadata['seconds']:.0f} s;"
        f" it had failed because of this: {cause}"
    )
    assert recovery.metadata == {
        **failure.metadata,
        "ended": recovery.timestamp.isoformat(),
        "seconds": recovery.metadata["seconds"],
    }
    assert datetime.fromisoformat(recovery.metadata["started"]) <= datetime.fromisoformat(recovery.metadata["ended"])
    assert [event for event in stored if event.event_type is RECOVERY] == [recovery]
    assert kinds(stored).count("component_failure") == 0


async def test_a_cause_that_would_fill_a_record(disk: Disk, dispatcher: Dispatcher) -> None:
    """However much a storage says of its failure, the recovery can be stored."""
    async with trail_of(disk, dispatcher) as trail:
        disk.error = AuditStorageError("full " * 1_000_000)
        await log_in_vain(trail)
        disk.error = None
        await log(trail)
        await trail.drain()
    assert kinds(dispatcher.own) == ["component_failure", "component_recovery"]
    assert len(dispatcher.own[1].message or "") < 2000


@started_or_not
async def test_the_alert_of_what_was_stored_comes_before_the_recovery(
    disk: Disk, dispatcher: Dispatcher, *, started: bool
) -> None:
    """The order is that of what happened: the failure, the event that was stored at last, the recovery."""
    async with trail_of(disk, dispatcher, started=started, alert_concurrency=1) as trail:
        disk.error = AuditStorageError("full")
        await log_in_vain(trail, alerts=True)
        disk.error = None
        await log(trail, alerts=True)
        await trail.drain()
        assert kinds(dispatcher.taken) == ["component_failure", "data_access", "component_recovery"]
        assert [event.sequence_number for event in dispatcher.taken] == [None, 1, 2]
        assert (await trail.get_statistics())["total_events"] == 2
        assert (await trail.get_statistics())["alerts"] == {"dispatched": 3, "failed": 0, "waiting": 0}


async def test_not_started_they_are_out_when_log_event_ends(disk: Disk, dispatcher: Dispatcher) -> None:
    """Without `start` the alert has left when `log_event` raises, and the recovery when it returns."""
    async with trail_of(disk, dispatcher, started=False) as trail:
        for alerts in (False, True):
            await anyio.sleep(600)
            disk.error = AuditStorageError("full")
            await log_in_vain(trail, alerts=alerts)
            assert kinds(dispatcher.own)[-1] == "component_failure"
            disk.error = None
            await log(trail, alerts=alerts)
            assert kinds(dispatcher.own)[-1] == "component_recovery"
        assert len(dispatcher.own) == 4


async def test_started_nobody_waits_for_them(disk: Disk) -> None:
    """Started, neither a call that raises nor one that returns waits for the dispatcher or for the recovery."""

    class Slow(Dispatcher):
        async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
            await anyio.sleep(3)
            await super().send_alert(event, severity=severity, channel=channel)

    class SlowDisk(Disk):
        async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
            if event.event_type is RECOVERY:
                await anyio.sleep(3)
            return await super().append(event, once=once)

    slow_disk = SlowDisk(disk.directory)
    async with trail_of(slow_disk, dispatcher := Slow()) as trail:
        began = anyio.current_time()
        slow_disk.error = AuditStorageError("full")
        await log_in_vain(trail)
        slow_disk.error = None
        await log(trail)
        assert anyio.current_time() == began
    assert kinds(dispatcher.taken) == ["component_failure", "component_recovery"]


@started_or_not
@pytest.mark.parametrize(
    "error",
    [ValueError("SECRET"), ExceptionGroup("SECRET", [OSError("SECRET")]), MemoryError("SECRET"), StopAsyncIteration()],
    ids=repr,
)
async def test_a_storage_that_raises_anything(
    disk: Disk, dispatcher: Dispatcher, error: Exception, *, started: bool
) -> None:
    """Whatever a storage raises, the caller gets an `AuditStorageError`; neither it nor the alert has its text."""
    async with trail_of(disk, dispatcher, started=started) as trail:
        disk.error = error
        for alerts in (True, False):
            with pytest.raises(AuditStorageError) as caught:
                await log(trail, alerts=alerts)
            assert "SECRET" not in str(caught.value)
        await trail.drain()
        (failure,) = dispatcher.taken
        names = {type(error).__qualname__, "RuntimeError"}  # StopAsyncIteration can't leave a coroutine as it is
        assert failure.metadata["cause"] in {f"Disk can't store: {name}" for name in names}
        assert "SECRET" not in repr(failure)


async def test_a_caller_that_is_cancelled_is_no_failure(disk: Disk, dispatcher: Dispatcher) -> None:
    """That a caller was cancelled while it stored an event says nothing about the storage."""

    class Waiting(Disk):
        async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
            await anyio.sleep_forever()

    async with trail_of(Waiting(disk.directory), dispatcher) as trail:
        with anyio.move_on_after(1) as scope:
            await log(trail)
        assert scope.cancelled_caught
        await trail.drain()
    assert dispatcher.handed == []


@started_or_not
async def test_a_storage_that_takes_all_but_the_recovery(disk: Disk, dispatcher: Dispatcher, *, started: bool) -> None:
    """While the storage refuses the recovery itself the incident stays open, and nothing new is announced."""
    disk.refuses = lambda event: refusing or event.event_type is RECOVERY  # type: ignore[method-assign]
    async with trail_of(disk, dispatcher, started=started) as trail:
        disk.error, refusing = AuditStorageError("full"), True
        await log_in_vain(trail)
        refusing = False
        for _ in range(20):
            await log(trail)
            await trail.drain()
        assert kinds(dispatcher.taken) == ["component_failure"]
        disk.error = None
        await log(trail)
        await trail.drain()
        assert kinds(dispatcher.taken) == ["component_failure", "component_recovery"]
        assert len({event.metadata["incident"] for event in dispatcher.taken}) == 1


async def test_a_storage_that_fails_while_the_recovery_is_stored(disk: Disk, dispatcher: Dispatcher) -> None:
    """If the storage fails anew before the recovery is stored, the old incident is resolved, and a new one is open."""
    gate = anyio.Event()

    class Gated(Disk):
        async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
            if event.event_type is RECOVERY:
                await gate.wait()
            return await super().append(event, once=once)

    gated = Gated(disk.directory)
    async with trail_of(gated, dispatcher) as trail:
        gated.error = AuditStorageError("full")
        await log_in_vain(trail)
        gated.error = None
        await log(trail)
        gated.error = AuditStorageError("full again")
        await log_in_vain(trail)
        gate.set()
        await trail.drain()
        first, second, recovery = dispatcher.taken
        assert kinds(dispatcher.taken) == ["component_failure", "component_failure", "component_recovery"]
        assert recovery.metadata["incident"] == first.metadata["incident"] != second.metadata["incident"]
        assert recovery.sequence_number is None
        gated.error = None
        await anyio.sleep(1)
        await log(trail)
        await trail.drain()
        assert dispatcher.taken[-1].metadata["incident"] == second.metadata["incident"]


async def test_a_trail_that_is_stopped_while_it_recovers(disk: Disk, dispatcher: Dispatcher) -> None:
    """A storage that hangs over the recovery neither holds up `stop` nor swallows the recovery without a report."""
    failed: list[DeliveryReport] = []

    def note(_: object, *, report: DeliveryReport) -> None:
        failed.append(report)

    class Hanging(Disk):
        async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
            if event.event_type is RECOVERY:
                await anyio.sleep_forever()
            return await super().append(event, once=once)

    hanging = Hanging(disk.directory)
    async with trail_of(hanging, dispatcher, stop_timeout=3) as trail:
        alert_failed.connect(note, sender=trail)
        hanging.error = AuditStorageError("full")
        await log_in_vain(trail)
        hanging.error = None
        await log(trail)
        began = anyio.current_time()
    assert anyio.current_time() - began == pytest.approx(3)
    told = dispatcher.taken + [report.event for report in failed]
    assert kinds(told) == ["component_failure", "component_recovery"]


@pytest.mark.parametrize("policy", [CompliancePolicy(real_time_alerts=False), CompliancePolicy(enabled=False)])
async def test_the_policy_is_respected(disk: Disk, dispatcher: Dispatcher, policy: CompliancePolicy) -> None:
    """Where the policy lets nothing alert, nothing is told, and no recovery is stored."""
    async with trail_of(disk, dispatcher, policy=policy) as trail:
        disk.error = AuditStorageError("full")
        if policy.enabled:
            await log_in_vain(trail)
        disk.verdict = AuditChainVerificationResult(valid=False, events_checked=1, error_message="x")
        await trail.verify_chain_from_storage()
        disk.error = disk.verdict = None
        await log(trail)
        await trail.verify_chain_from_storage()
        assert kinds(await trail.get_events()) == ["data_access"] * policy.enabled
    assert dispatcher.handed == []


async def test_they_go_to_the_channel_of_their_severity(disk: Disk) -> None:
    """The policy's channels are for these alerts too."""
    channels: list[str | None] = []

    class Noting(Dispatcher):
        async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
            channels.append(channel)

    policy = CompliancePolicy(alert_channel="#audit", alert_channels={"critical": "#on-call"})
    async with trail_of(disk, Noting(), policy=policy) as trail:
        disk.error = AuditStorageError("full")
        await log_in_vain(trail)
        disk.error = None
        await log(trail)
    assert channels == ["#on-call", "#audit"]


async def test_minimum_necessary(disk: Disk, dispatcher: Dispatcher) -> None:
    """The dispatcher is told what fails, which failure is over, and no cause; receivers and the trail have all."""
    announced: list[AuditEvent] = []

    def note(_: object, *, event: AuditEvent, **__: object) -> None:
        announced.append(event)

    async with trail_of(disk, dispatcher, policy=CompliancePolicy(hipaa_minimum_necessary=True)) as trail:
        compliance_alert.connect(note, sender=trail)
        disk.error = AuditStorageError("PRIVATE")
        await log_in_vain(trail)
        disk.error = None
        await log(trail)
        await trail.drain()
        (stored,) = await trail.get_events(component="audit_trail")
    assert [(event.component, event.operation) for event in dispatcher.taken] == [("audit_trail", "storing events")] * 2
    assert "PRIVATE" not in repr(dispatcher.taken)
    failure, recovery = dispatcher.taken
    assert is_recovery(recovery)
    assert subject_of(recovery) == subject_of(failure)
    assert stored == announced[1]
    assert [event.metadata["cause"] for event in announced] == ["PRIVATE", "PRIVATE"]


@started_or_not
async def test_a_subclass_is_asked_to_send_them(disk: Disk, dispatcher: Dispatcher, *, started: bool) -> None:
    """A subclass that overrides `_send_compliance_alert` gets these alerts like any other."""
    sent: list[AuditEvent] = []

    class Mine(AuditTrail):
        async def _send_compliance_alert(self, event: AuditEvent) -> None:
            sent.append(event)

    trail = Mine(storage=disk, alert_dispatcher=dispatcher)
    if started:
        await trail.start()
    disk.error = AuditStorageError("full")
    await log_in_vain(trail)
    disk.error = None
    await log(trail)
    await trail.stop()
    assert kinds(sent) == ["component_failure", "component_recovery"]
    assert dispatcher.handed == []


async def test_a_receiver_that_raises_hurts_nobody(disk: Disk, dispatcher: Dispatcher) -> None:
    """A receiver that fails over such an alert reaches neither the caller nor the dispatcher."""

    def receiver(_: object, **__: object) -> None:
        raise ValueError("v")

    async with trail_of(disk, dispatcher) as trail:
        compliance_alert.connect(receiver, sender=trail)
        disk.error = AuditStorageError("full")
        await log_in_vain(trail)
    assert kinds(dispatcher.taken) == ["component_failure"]


async def test_a_forked_child_has_no_open_incidents(disk: Disk, dispatcher: Dispatcher) -> None:
    """What was failing in the parent is the parent's to tell: the child begins anew."""
    async with trail_of(disk, dispatcher, started=False) as trail:
        disk.error = AuditStorageError("full")
        await log_in_vain(trail)
        trail._forget()
        disk.error = None
        await log(trail)
        assert kinds(dispatcher.taken) == ["component_failure"]


# -- verification


@started_or_not
@pytest.mark.parametrize(
    ("verdict", "cause"),
    [
        (
            AuditChainVerificationResult(
                valid=False, events_checked=2, first_invalid_sequence=2, error_message="record 2 was altered"
            ),
            "record 2 was altered (the first invalid record is 2)",
        ),
        (AuditChainVerificationResult(valid=False, events_checked=0, error_message="can't be read"), "can't be read"),
        (AuditStorageError("no connection"), "no connection"),
        (ValueError("SECRET"), "ValueError"),
    ],
    ids=["damaged", "unreadable", "AuditStorageError", "another error"],
)
async def test_a_verification_that_fails_and_passes_again(
    disk: Disk, dispatcher: Dispatcher, verdict: Any, cause: str, *, started: bool
) -> None:
    """However often a verification finds damage, or can't be made, one alert says so, and one when it passes again."""
    async with trail_of(disk, dispatcher, started=started) as trail:

        async def verify() -> None:
            if isinstance(disk.verdict, Exception):
                with pytest.raises(type(disk.verdict)):
                    await trail.verify_chain_from_storage()
            else:
                assert (await trail.verify_chain_from_storage()).valid is (disk.verdict is None)
            if started:
                await trail.drain()

        disk.verdict = verdict
        for _ in range(3):
            await verify()
        (failure,) = dispatcher.taken
        assert (failure.component, failure.operation) == ("audit_trail", "verification")
        assert failure.message == f"the audit trail can't be verified: {cause}"
        disk.verdict = None
        for _ in range(3):
            await verify()
        assert kinds(dispatcher.taken) == ["component_failure", "component_recovery"]
        assert dispatcher.taken[1].metadata["incident"] == failure.event_id
        assert await trail.get_events() == dispatcher.taken[1:]


async def test_a_recovery_that_cannot_be_stored_goes_out(disk: Disk, dispatcher: Dispatcher) -> None:
    """A recovery of something else that the storage does not take is told all the same, and so is that it did not."""
    async with trail_of(disk, dispatcher, alert_concurrency=1) as trail:
        disk.verdict = AuditChainVerificationResult(valid=False, events_checked=1, error_message="x")
        await trail.verify_chain_from_storage()
        disk.verdict, disk.error = None, AuditStorageError("full")
        await trail.verify_chain_from_storage()
        await trail.drain()
        assert [(event.event_type, event.operation) for event in dispatcher.taken] == [
            (FAILURE, "verification"),
            (FAILURE, "storing events"),
            (RECOVERY, "verification"),
        ]
        assert dispatcher.taken[2].sequence_number is None


# -- alerts


@pytest.mark.slow_on_trio
@started_or_not
async def test_a_dispatcher_that_always_fails(disk: Disk, *, started: bool) -> None:
    """Over many alerts that are not delivered, one alert says so, with the reason of the first."""
    dispatcher = Dispatcher(DeliveryError("slack: answered 503"))
    async with trail_of(disk, dispatcher, started=started) as trail:
        first = await log(trail, alerts=True)
        for _ in range(39):
            await log(trail, alerts=True)
        await trail.drain()
        (failure,) = dispatcher.own
        assert (failure.component, failure.operation) == ("alert_delivery", "dispatching alerts")
        assert failure.metadata["cause"] == f"slack: answered 503 (event {first}, record 1)"
        assert failure.message == f"an alert was not delivered: {failure.metadata['cause']}"
        assert (await trail.get_statistics())["alerts"] == {"dispatched": 0, "failed": 41, "waiting": 0}
        assert (await trail.get_statistics())["total_events"] == 40


@started_or_not
async def test_alerts_are_delivered_again(disk: Disk, dispatcher: Dispatcher, *, started: bool) -> None:
    """The next alert that is delivered resolves the incident; the delivery of the alert about it does not."""
    async with trail_of(disk, dispatcher, started=started) as trail:
        for _ in range(2):
            dispatcher.error = ValueError("SECRET")
            await log(trail, alerts=True)
            await trail.drain()
        dispatcher.error = None
        await log(trail)
        await trail.verify_chain_from_storage()
        await trail.drain()
        assert kinds(dispatcher.own) == ["component_failure"]
        await log(trail, alerts=True)
        await log(trail, alerts=True)
        await trail.drain()
        assert kinds(dispatcher.own) == ["component_failure", "component_recovery"]
        assert dispatcher.own[1].metadata["incident"] == dispatcher.own[0].event_id
        assert "SECRET" not in repr(dispatcher.own)
        assert [event.metadata["cause"][:10] for event in dispatcher.own] == ["ValueError"] * 2


@started_or_not
async def test_an_alert_that_one_dispatcher_refuses(disk: Disk, *, started: bool) -> None:
    """A single alert that is refused is known to someone: the dispatcher takes the one that says so."""

    class Picky(Dispatcher):
        async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
            self.error = DeliveryError("too long") if event.message == "long" else None
            await super().send_alert(event, severity=severity, channel=channel)

    async with trail_of(disk, dispatcher := Picky(), started=started) as trail:
        await log(trail, "long", alerts=True)
        await trail.drain()
        assert kinds(dispatcher.taken) == ["component_failure"]


@pytest.mark.slow_on_trio
async def test_a_dispatcher_that_flaps(disk: Disk) -> None:
    """While every other of many alerts fails one incident is open, which is resolved when none does any more."""

    class Flapping(Dispatcher):
        async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
            await anyio.sleep(1)
            self.error = DeliveryError("503") if event.message == "odd" else None
            await super().send_alert(event, severity=severity, channel=channel)

    async with trail_of(disk, dispatcher := Flapping(), alert_concurrency=2) as trail:
        for number in range(40):
            await log(trail, "odd" if number % 2 else "even", alerts=True)
        await trail.drain()
        assert kinds(dispatcher.own) == ["component_failure"]
        await log(trail, "even", alerts=True)
        await trail.drain()
        assert kinds(dispatcher.own) == ["component_failure", "component_recovery"]


@pytest.mark.slow_on_trio
async def test_a_full_buffer_is_one_incident(disk: Disk) -> None:
    """However long more alerts come than are sent, that is told once, and no recovery takes the place of an alert."""

    class Slow(Dispatcher):
        async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
            await anyio.sleep(2)
            await super().send_alert(event, severity=severity, channel=channel)

    async with trail_of(disk, dispatcher := Slow(), alert_concurrency=1, alert_buffer=5, stop_timeout=1000) as trail:
        for _ in range(100):
            await log(trail, alerts=True)
            await anyio.sleep(1)
        await trail.drain()
        # The alert about the full buffer found it full; the last of the others may have found room.
        assert kinds(dispatcher.own) in ([], ["component_recovery"])
        await log(trail, alerts=True)
        await trail.drain()
        assert kinds(dispatcher.own) == ["component_recovery"]


async def test_stopping_is_no_failure(disk: Disk) -> None:
    """That alerts are given up when the trail is stopped opens no incident: nobody could be told."""
    announced: list[AuditEvent] = []

    def note(_: object, *, event: AuditEvent, **__: object) -> None:
        announced.append(event)

    class Hanging(Dispatcher):
        async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                if event.message == "rude":
                    raise ValueError("cancelled")

    async with trail_of(disk, Hanging(), alert_concurrency=2, stop_timeout=1) as trail:
        compliance_alert.connect(note, sender=trail)
        for message in ("rude", "polite", "waiting"):
            await log(trail, message, alerts=True)
    assert kinds(announced) == ["data_access"] * 3


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_dispatcher_that_cancels_its_task_fails(disk: Disk) -> None:
    """A dispatcher that ends the task it is called in has failed, and that is told."""

    class Quitting(Dispatcher):
        async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
            await super().send_alert(event, severity=severity, channel=channel)
            if event.event_type is not FAILURE:
                raise asyncio.CancelledError

    async with trail_of(disk, dispatcher := Quitting()) as trail:
        for _ in range(3):
            await log(trail, alerts=True)
            await trail.drain()
        (failure,) = dispatcher.own
        assert failure.metadata["cause"].startswith("it raised CancelledError, which is no ordinary Exception (event ")


async def test_a_cancelled_caller_is_no_failure_of_the_dispatcher(disk: Disk) -> None:
    """Not started, that the caller was cancelled while its alert was sent opens no incident."""
    announced: list[AuditEvent] = []

    def note(_: object, *, event: AuditEvent, **__: object) -> None:
        announced.append(event)

    class Hanging(Dispatcher):
        async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
            await anyio.sleep_forever()

    async with trail_of(disk, Hanging(), started=False) as trail:
        compliance_alert.connect(note, sender=trail)
        with anyio.move_on_after(1) as scope:
            await log(trail, alerts=True)
        assert scope.cancelled_caught
    assert kinds(announced) == ["data_access"]


# -- dispatchers


class Talking(Dispatcher):
    """Keeps its owner while it is entered, and has a task that does, too."""

    reporter: Reporter | None = None
    reporter_in_task: Reporter | None = None

    async def __aenter__(self) -> None:
        self.reporter = reporter.get()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._work)

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.__aexit__(None, None, None)

    async def _work(self) -> None:
        self.reporter_in_task = reporter.get()


async def test_a_dispatcher_finds_its_owner(disk: Disk) -> None:
    """A dispatcher that is entered finds the trail in `reporter`, and so do its tasks; others do not."""
    dispatcher = Talking()
    async with trail_of(disk, dispatcher):
        assert reporter.get() is None
        assert dispatcher.reporter is not None
        await anyio.wait_all_tasks_blocked()
        assert dispatcher.reporter_in_task is dispatcher.reporter


async def test_a_dispatcher_tells_its_owner(disk: Disk) -> None:
    """What a dispatcher says is failing is told once, until it says that it works."""
    dispatcher = Talking()
    async with trail_of(disk, dispatcher, alert_concurrency=1) as trail:
        assert dispatcher.reporter is not None
        for _ in range(3):
            dispatcher.reporter.failing("the outbox slack", "the oldest alert waits for 600 s")
            await log(trail, alerts=True)
        for _ in range(3):
            dispatcher.reporter.working("the outbox slack")
        await trail.drain()
        failure, recovery = dispatcher.own
        assert failure.message == "the outbox slack does not work: the oldest alert waits for 600 s"
        assert (failure.component, failure.operation) == ("alert_delivery", "the outbox slack")
        assert recovery.message.startswith("the outbox slack works again, after ")
        assert recovery.sequence_number == 4


def a_report() -> DeliveryReport:
    return DeliveryReport(
        event=AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m"),
        severity="info",
        channel=None,
        waited=0.0,
        took=0.0,
        error=ValueError("v"),
        target="slack",
        attempt=2,
    )


async def test_a_dispatcher_announces_its_attempts(disk: Disk) -> None:
    """A report that the dispatcher hands to its owner is announced, with the trail as sender."""
    reports: list[tuple[object, DeliveryReport]] = []

    def note(sender: object, *, report: DeliveryReport) -> None:
        reports.append((sender, report))

    alert_attempted.connect(note)
    try:
        async with trail_of(disk, dispatcher := Talking()) as trail:
            assert dispatcher.reporter is not None
            report = a_report()
            dispatcher.reporter.attempted(report)
            assert reports == [(trail, report)]
            await trail.drain()
            assert dispatcher.handed == []
    finally:
        alert_attempted.disconnect(note)


async def test_an_owner_that_is_gone(disk: Disk) -> None:
    """A dispatcher that outlives its trail may still talk, and nothing happens."""
    dispatcher = Talking()
    async with trail_of(disk, dispatcher) as trail:
        pass
    kept = dispatcher.reporter
    assert kept is not None
    del trail
    for _ in range(10):  # the loop lets go of tasks that are done
        await anyio.lowlevel.checkpoint()
    gc.collect()
    kept.failing("the outbox", "it is old")
    kept.working("the outbox")
    kept.attempted(a_report())
    assert dispatcher.handed == []


# -- the book of incidents


async def test_an_incident_is_measured() -> None:
    """The recovery tells how many seconds the incident lasted, by a clock that does not step."""
    rig = Rig()
    rig.health.failing(STORING, "full")
    await anyio.sleep(90)
    rig.health.working(STORING)
    await rig.background.settle()
    assert rig.announced[1].metadata["seconds"] == 90
    assert rig.announced[1].message == (
        "the audit trail stores events again, after 90 s; it had failed because of this: full"
    )


@pytest.mark.slow_on_trio
async def test_a_part_that_fails_and_works_in_turns() -> None:
    """Its incidents last longer each time, up to five minutes, and no failure within one is announced."""
    rig = Rig()
    lasted: list[float] = []
    for _ in range(12):
        before, began = len(rig.announced), anyio.current_time()
        rig.health.failing(STORING, "full")
        while len(rig.announced) == before + 1:
            await anyio.sleep(0.25)
            rig.health.working(STORING)
            await rig.background.settle()
        lasted.append(anyio.current_time() - began)
    assert lasted == [0.25, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    for _ in range(1000):
        rig.health.failing(STORING, "full")
        rig.health.working(STORING)
    await rig.background.settle()
    assert kinds(rig.announced) == [FAILURE.value, RECOVERY.value] * 12 + [FAILURE.value]
    await anyio.sleep(299.5)
    rig.health.failing(STORING, "once more")
    await anyio.sleep(299.5)
    rig.health.working(STORING)
    await rig.background.settle()
    assert kinds(rig.announced)[-1] == FAILURE.value
    # That it works is not said again, by an archive that is used once a day: any other part ends the incident.
    await anyio.sleep(0.5)
    rig.health.working(VERIFICATION)
    await rig.background.settle()
    assert kinds(rig.announced)[-1] == RECOVERY.value


async def test_a_part_that_works_for_long_has_no_past() -> None:
    """A part that fails five minutes after its last incident has one that ends with the first success."""
    rig = Rig()
    for _ in range(4):
        rig.health.failing(STORING, "full")
        rig.health.working(STORING)
        await rig.background.settle()
        await anyio.sleep(300)
    assert kinds(rig.announced) == [FAILURE.value, RECOVERY.value] * 4


@pytest.mark.slow_on_trio
async def test_the_past_of_parts_is_limited() -> None:
    """A dispatcher that names a new part each time does not fill the memory with what has ended, either."""
    rig = Rig()
    for number in range(300):
        part = Part("alert_delivery", f"part {number}")
        rig.health.failing(part, "c")
        rig.health.working(part)
        await rig.background.settle()
    assert len(rig.announced) == 600
    assert len(rig.health._relapses._parts) == 200


async def test_incidents_of_several_parts() -> None:
    """Incidents of different parts have nothing to do with each other."""
    rig = Rig()
    rig.health.failing(STORING, "a")
    rig.health.failing(VERIFICATION, "b")
    rig.health.working(STORING)
    rig.health.working(Part("audit_trail", "something else"))
    await rig.background.settle()
    assert [(event.event_type, event.operation) for event in rig.announced] == [
        (FAILURE, "storing events"),
        (FAILURE, "verification"),
        (RECOVERY, "storing events"),
    ]


async def test_open_incidents_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    """A dispatcher that names a new part each time fills neither the memory nor the channel; the log has the rest."""
    rig = Rig()
    with caplog.at_level(logging.ERROR):
        for number in range(MOST_OPEN + 5):
            rig.health.failing(Part("alert_delivery", f"part {number}"), "c")
    assert len(rig.announced) == MOST_OPEN
    assert caplog.text.count("none is opened for part") == 5


# -- many threads


class Crowd(Rig):
    """A book that many threads report to at the same moment."""

    def __init__(self, files: IncidentFiles | None = None) -> None:
        super().__init__(files, lambda: time.monotonic() + self.skipped)
        self.skipped = 0.0
        self.slow = threading.Event()
        self.slow.set()
        self.announcing = threading.Event()

    def announce(self, event: AuditEvent) -> None:
        self.announcing.set()
        assert self.slow.wait(60)
        super().announce(event)

    def report(self, *calls: Callable[[], None]) -> None:
        """Make each call in a thread of its own, all at once."""
        together = threading.Barrier(len(calls))

        def run(call: Callable[[], None]) -> None:
            together.wait(60)
            call()

        with ThreadPoolExecutor(len(calls)) as pool:
            for done in [pool.submit(run, call) for call in calls]:
                done.result(60)

    def counted(self) -> dict[str, list[str]]:
        """Return the announcements about each incident, in order."""
        announced: dict[str, list[str]] = {}
        for event in self.announced:
            announced.setdefault(event.metadata["incident"], []).append(event.event_type.value)
        return announced


PAIR = ["component_failure", "component_recovery"]


@pytest.fixture
def often_switching() -> Iterator[None]:
    """Have threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.slow_on_trio
@pytest.mark.usefixtures("often_switching")
async def test_twenty_threads_report_one_failure_and_one_recovery() -> None:
    """However many threads see a part fail, and then work, at the same moment, one incident is opened and resolved."""
    crowd = Crowd()
    for number in range(8):
        part = Part("alert_delivery", f"part {number}")
        crowd.report(*[functools.partial(crowd.health.failing, part, "c")] * 20)
        assert len(crowd.announced) == 2 * number + 1
        crowd.report(*[functools.partial(crowd.health.working, part)] * 20)
        assert crowd.background.kept == 1
        await crowd.background.settle()
    assert list(crowd.counted().values()) == [PAIR] * 8


@pytest.mark.slow_on_trio
@pytest.mark.usefixtures("often_switching")
async def test_twenty_threads_disagree() -> None:
    """Whatever threads say at the same moment, each incident is opened, announced and resolved once, in this order."""
    crowd = Crowd()
    for _ in range(8):
        fails = functools.partial(crowd.health.failing, STORING, "c")
        works = functools.partial(crowd.health.working, STORING)
        crowd.report(*[fails] * 10, *[works] * 10)
        await crowd.background.settle()
        crowd.skipped += 600
    crowd.health.working(STORING)
    await crowd.background.settle()
    assert all(announced == PAIR for announced in crowd.counted().values())
    assert len({event.event_id for event in crowd.announced}) == len(crowd.announced)


@pytest.mark.parametrize("last", ["works", "fails"])
async def test_a_recovery_waits_for_its_failure(last: str) -> None:
    """A part that works while its failure is being announced is resolved afterwards, unless it failed again."""
    crowd = Crowd()
    crowd.slow.clear()
    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(crowd.health.failing, STORING, "full")
        assert crowd.announcing.wait(60)
        crowd.health.working(STORING)
        if last == "fails":
            crowd.health.failing(STORING, "full again")
        await crowd.background.settle()
        assert crowd.announced == []
        crowd.slow.set()
        failing.result(60)
    await crowd.background.settle()
    assert list(crowd.counted().values()) == [PAIR if last == "works" else PAIR[:1]]
    crowd.health.working(STORING)
    await crowd.background.settle()
    assert list(crowd.counted().values()) == [PAIR]


@pytest.mark.slow_on_trio
@pytest.mark.usefixtures("often_switching")
async def test_twenty_threads_report_alerts() -> None:
    """Of alerts that fail and are delivered in many threads the last failure counts: older alerts resolve nothing."""
    crowd = Crowd()

    def reported(error: Exception | None, announced: float) -> Callable[[], None]:
        report = msgspec.structs.replace(a_report(), error=error)
        return functools.partial(crowd.health.reported, report, announced)

    for now in range(10, 90, 10):
        crowd.skipped += 600
        crowd.report(*[reported(DeliveryError("503"), now), reported(None, now - 1)] * 10)
        await crowd.background.settle()
        crowd.report(*[reported(None, now - 1)] * 20)
        await crowd.background.settle()
        assert kinds(crowd.announced)[-1] == "component_failure"
        crowd.report(*[reported(None, now + 1)] * 20)
        await crowd.background.settle()
        assert kinds(crowd.announced)[-1] == "component_recovery"
    assert all(announced == PAIR for announced in crowd.counted().values())


@pytest.mark.usefixtures("often_switching")
async def test_the_file_has_the_incidents_of_all_threads(tmp_path: Path) -> None:
    """Whatever twenty threads open and resolve while the file is written, the file has what is open in the end."""
    files = IncidentFiles(tmp_path)
    crowd = Crowd(files)
    parts = [Part("alert_delivery", f"part {number}") for number in range(20)]

    def flap(part: Part) -> None:
        for _ in range(20):
            crowd.health.failing(part, "c")
            crowd.health.working(part)
        crowd.health.failing(part, "c")

    def save() -> None:
        for _ in range(20):
            assert files.save(crowd.health._snapshot)

    await crowd.health.enter()
    crowd.report(save, *(functools.partial(flap, part) for part in parts))
    await crowd.background.settle()
    await crowd.health.leave()
    next_one = IncidentFiles(tmp_path)
    found = [incident.part for incident in await anyio.to_thread.run_sync(next_one.take_over)]
    assert Counter(found) == Counter(parts)
    next_one.close()


async def test_a_failure_in_the_middle_of_a_transition() -> None:
    """A signal handler that reports while its own thread changes the book does not wait for itself."""
    rig = Rig()
    with rig.health._lock:
        rig.health.failing(STORING, "full")
        rig.health.working(STORING)
    await rig.background.settle()
    assert kinds(rig.announced) == PAIR


async def test_a_child_of_a_thread_that_holds_the_lock() -> None:
    """A forked child whose parent was in the middle of a transition gets a lock of its own."""
    rig = Crowd()
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        with rig.health._lock:
            holding.set()
            assert done.wait(60)

    with ThreadPoolExecutor(2) as pool:
        holder = pool.submit(hold)
        assert holding.wait(60)
        rig.health.forget()
        pool.submit(rig.health.failing, STORING, "full").result(60)
        done.set()
        holder.result(60)
    assert kinds(rig.announced) == ["component_failure"]
