"""From the signal to the dispatcher: every alert ends in one report."""

import asyncio
import contextlib
import functools
import threading
import time
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.to_thread
import pytest

from fapilog import (
    AlertBufferFullError,
    AlertCancelledError,
    AlertStoppedError,
    AlertTimeoutError,
    AuditEvent,
    AuditEventType,
    CompliancePolicy,
    DeliveryError,
    DeliveryReport,
    PanicError,
    alert_dispatched,
    alert_failed,
)
from fapilog.core import _forwarding
from fapilog.core._forwarding import AlertForwarder
from fapilog.core._health import Health
from fapilog.core.signals import Aftermath, Announcer
from fapilog.tasks.background import Background
from tests.doubles.alarms import TimeUp
from tests.doubles.interrupting import moments
from tests.doubles.running_background import Running


class Sender:
    """Something that sends."""


def event(number: int = 0) -> AuditEvent:
    """Return an event that can be told from others."""
    return AuditEvent(event_type=AuditEventType.SECURITY_VIOLATION, message=str(number), sequence_number=number or None)


class Dispatcher:
    """Does to each alert what its message is mapped to, and remembers it."""

    def __init__(self, **actions: Any) -> None:
        self.actions = actions
        self.sent: list[str] = []
        self.at_once = self.most_at_once = 0

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            action = self.actions.get(f"on_{event.message}", self.actions.get("always"))
            if isinstance(action, BaseException):
                raise action
            if action is not None:
                await action()
            self.sent.append(event.message)
        finally:
            self.at_once -= 1


def nothing(_: AuditEvent) -> None:
    """Announce nothing."""


async def unused(event: AuditEvent) -> AuditEvent:
    """Store nothing."""
    return event


class Rig:
    """A forwarder with all that it needs, and the reports that it made."""

    def __init__(self, dispatcher: Dispatcher, *, policy: CompliancePolicy | None = None, **options: Any) -> None:
        self.sender = Sender()
        self.background = Background()
        self.running = Running(self.background)
        self.is_entered = False
        self.health = Health(CompliancePolicy(real_time_alerts=False), self.background, announce=nothing, store=unused)
        self.reports: list[DeliveryReport] = []
        self.forwarder = AlertForwarder(
            dispatcher,
            policy=policy or CompliancePolicy(),
            background=self.background,
            announcer=Announcer(self.background, Aftermath(0), ours=bool, timeout=10, limit=100),
            health=self.health,
            aftermath=Aftermath(0),
            **{"timeout": 10.0, "concurrency": 2, "buffer": 5, "clock": anyio.current_time, **options},
        )
        alert_dispatched.connect(self.note, sender=self.sender)
        alert_failed.connect(self.note, sender=self.sender)

    def note(self, sender: object, *, report: DeliveryReport) -> None:
        assert sender is self.sender
        self.reports.append(report)

    def send(self, *numbers: int) -> None:
        for number in numbers:
            self.forwarder.receive(self.sender, event=event(number), severity="security", channel="#audit")

    @property
    def outcomes(self) -> dict[str, str]:
        return {report.event.message: report.outcome for report in self.reports}

    async def __aenter__(self) -> Self:
        await self.running.enter()
        self.is_entered = True
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.is_entered:
            await self.running.leave(timeout=1)
        self.forwarder.give_up()


@pytest.fixture(params=[True, False], ids=["started", "not_started"])
def started(request: pytest.FixtureRequest) -> bool:
    """Run the test with the background entered, and not."""
    return bool(request.param)


async def test_an_alert_arrives_with_what_was_announced(*, started: bool) -> None:
    """The dispatcher gets the event, the severity and the channel; the report holds them, and no error."""
    got: list[tuple[AuditEvent, str, str | None]] = []

    class Recorder(Dispatcher):
        async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
            got.append((event, severity, channel))
            await anyio.sleep(3)

    rig = Rig(Recorder())
    if started:
        await rig.__aenter__()
    sent = event(1)
    rig.forwarder.receive(rig.sender, event=sent, severity="security", channel="#audit")
    assert rig.forwarder.waiting == 1
    await rig.background.settle()
    assert got == [(sent, "security", "#audit")]
    (report,) = rig.reports
    assert report == DeliveryReport(
        event=sent, severity="security", channel="#audit", waited=report.waited, took=report.took, error=None
    )
    assert [report.waited, report.took] == pytest.approx([0, 3])
    assert (rig.forwarder.dispatched, rig.forwarder.failed, rig.forwarder.waiting) == (1, 0, 0)
    await rig.__aexit__()


@pytest.mark.parametrize(
    ("action", "error", "outcome"),
    [
        (ValueError("SECRET"), ValueError, "error"),
        (DeliveryError("slack: 503"), DeliveryError, "error"),
        (ExceptionGroup("SECRET", [ValueError("SECRET")]), ExceptionGroup, "error"),
        (anyio.sleep_forever, AlertTimeoutError, "timeout"),
    ],
    ids=["raises", "delivery_error", "group", "hangs"],
)
async def test_a_failing_dispatcher(
    action: Any, error: type[Exception], outcome: str, caplog: pytest.LogCaptureFixture, *, started: bool
) -> None:
    """What the dispatcher raises, or its hanging, is reported and logged without secrets; the next alert is sent."""
    rig = Rig(dispatcher := Dispatcher(on_1=action), concurrency=1)
    if started:
        await rig.__aenter__()
    rig.send(1, 2)
    await rig.background.settle()
    assert dispatcher.sent == ["2"]
    assert rig.outcomes == {"1": outcome, "2": "dispatched"}
    assert isinstance(next(report.error for report in rig.reports if report.error), error)
    assert (rig.forwarder.dispatched, rig.forwarder.failed) == (1, 1)
    assert "(record 1) was not delivered: " in caplog.text
    assert "SECRET" not in caplog.text
    await rig.__aexit__()


async def test_a_delivery_error_is_logged_with_its_text(caplog: pytest.LogCaptureFixture) -> None:
    """The text of a DeliveryError is fit to print and is logged; another exception's is not."""
    rig = Rig(Dispatcher(always=DeliveryError("slack: answered 503")))
    rig.send(1)
    await rig.background.settle()
    assert "was not delivered: slack: answered 503" in caplog.text


async def test_a_hanging_dispatcher_is_cancelled_in_time() -> None:
    """A dispatcher that hangs is cancelled after the timeout, and the report says how long that was."""
    async with Rig(Dispatcher(always=anyio.sleep_forever)) as rig:
        rig.send(1)
        await rig.background.settle()
        (report,) = rig.reports
        assert report.took == pytest.approx(10)
        assert str(report.error) == "the dispatcher did not return within 10 s"


async def test_sends_at_once_are_limited() -> None:
    """No more alerts are sent at once than the concurrency allows; the rest waits, and that is measured."""
    async with Rig(dispatcher := Dispatcher(always=functools.partial(anyio.sleep, 1)), buffer=10) as rig:
        rig.send(*range(1, 7))
        await rig.background.settle()
        assert dispatcher.most_at_once == 2
        assert [report.waited for report in rig.reports] == pytest.approx([0, 0, 1, 1, 2, 2])


async def test_a_full_buffer_fails_the_alert_loudly(caplog: pytest.LogCaptureFixture) -> None:
    """With as many alerts waiting as the buffer holds, the next one fails at once, and the others are still sent."""
    async with Rig(dispatcher := Dispatcher(always=functools.partial(anyio.sleep, 1))) as rig:
        rig.send(*range(1, 9))
        failed = [report for report in rig.reports if isinstance(report.error, AlertBufferFullError)]
        assert [report.event.message for report in failed] == ["6", "7", "8"]
        assert caplog.text.count("5 alerts were waiting already") == 3
        await rig.background.settle()
        assert sorted(dispatcher.sent) == ["1", "2", "3", "4", "5"]


async def test_the_kept_alerts_are_limited_too() -> None:
    """Alerts that are announced by hand while nothing is started are kept up to the limit."""
    rig = Rig(dispatcher := Dispatcher())
    rig.send(*range(1, 9))
    await rig.background.settle()
    assert sorted(dispatcher.sent) == ["1", "2", "3", "4", "5"]
    assert list(rig.outcomes.values()).count("buffer_full") == 3


async def test_stopping_reports_what_is_left() -> None:
    """What is being sent and what waits when the time to stop is over is reported as stopped."""
    async with Rig(Dispatcher(always=anyio.sleep_forever), concurrency=1) as rig:
        rig.send(1, 2, 3)
    assert rig.outcomes == {"1": "stopped", "2": "stopped", "3": "stopped"}
    assert all(isinstance(report.error, AlertStoppedError) for report in rig.reports)
    assert rig.forwarder.waiting == 0


async def test_a_cancelled_caller_is_reported() -> None:
    """Not started, the alert of a caller that is cancelled meanwhile is reported, and the cancellation passes."""
    rig = Rig(Dispatcher(always=anyio.sleep_forever))
    rig.send(1)
    with anyio.move_on_after(1) as scope:
        await rig.background.settle()
    assert scope.cancelled_caught
    assert rig.outcomes == {"1": "cancelled"}


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("how", ["raises", "cancels"])
async def test_a_dispatcher_that_cancels_itself(how: str, *, started: bool) -> None:
    """A dispatcher that ends its own task fails its own alert only."""

    async def raise_cancelled() -> None:
        raise asyncio.CancelledError

    async def cancel_task() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    action = raise_cancelled if how == "raises" else cancel_task
    rig = Rig(dispatcher := Dispatcher(on_1=action), concurrency=1)
    if started:
        await rig.__aenter__()
    rig.send(1, 2, 3)
    await rig.background.settle()
    outcome, kind = ("error", PanicError) if how == "raises" else ("cancelled", AlertCancelledError)
    assert rig.outcomes == {"1": outcome, "2": "dispatched", "3": "dispatched"}
    assert sum(isinstance(report.error, kind) for report in rig.reports) == 1
    assert sorted(dispatcher.sent) == ["2", "3"]
    await rig.__aexit__()


async def test_a_dispatcher_that_ignores_cancellation_has_delivered() -> None:
    """A dispatcher that returns after its time, having caught the cancellation, has delivered: it says so itself."""

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(15)

    async with Rig(Dispatcher(always=stubborn)) as rig:
        rig.send(1)
    assert rig.outcomes == {"1": "dispatched"}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_exit_in_a_dispatcher_ends_the_service(backend: str, error: type[BaseException]) -> None:
    """KeyboardInterrupt and SystemExit of a dispatcher end the loop at once, and the alert is reported."""
    rig = Rig(Dispatcher(always=error()))

    async def run() -> None:
        async with rig:
            rig.send(1)
            await anyio.sleep(60)

    with pytest.raises((error, KeyboardInterrupt)):
        anyio.run(run, backend=backend)
    assert rig.outcomes == {"1": "cancelled"}


async def test_minimum_necessary_reaches_the_dispatcher_only() -> None:
    """The dispatcher gets the event cut by the policy, observers the whole one."""
    got: list[AuditEvent] = []

    class Recorder(Dispatcher):
        async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
            got.append(event)

    rig = Rig(Recorder(), policy=CompliancePolicy(hipaa_minimum_necessary=True))
    rig.send(1)
    await rig.background.settle()
    assert got[0].message == ""
    assert rig.reports[0].event.message == "1"


async def test_an_alert_from_another_thread(*, started: bool) -> None:
    """An alert that is announced in a thread is sent in the event loop."""
    threads: list[int] = []

    async def note_thread() -> None:
        threads.append(threading.get_ident())

    rig = Rig(Dispatcher(always=note_thread), clock=time.monotonic)
    if started:
        await rig.__aenter__()
    await anyio.to_thread.run_sync(rig.send, 1)
    await rig.background.settle()
    assert threads == [threading.get_ident()]
    assert rig.outcomes == {"1": "dispatched"}
    await rig.__aexit__()


async def test_an_alert_that_two_threads_start_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread in which a signal handler has raised starts the next alert again, even while another one starts it."""
    rig = Rig(dispatcher := Dispatcher())
    start_soon, starts = rig.background.start_soon, list[object]()

    def start_twice(call: Any, **options: Any) -> None:
        starts.append(call)
        start_soon(call, **options)
        if len(starts) == 1:
            rig.forwarder._is_starting = False
            rig.forwarder._start_first()

    monkeypatch.setattr(rig.background, "start_soon", start_twice)
    async with rig:
        rig.send(1)
        await rig.background.settle()
    assert len(starts) == 2
    assert rig.outcomes == {"1": "dispatched"}
    assert dispatcher.sent == ["1"]


async def test_an_alert_too_many_that_is_interrupted_has_a_report() -> None:
    """Wherever a signal handler raises while an alert finds the buffer full, that is told."""
    for moment in moments(Path(_forwarding.__file__), TimeUp):
        rig, full = Rig(Dispatcher(), buffer=1), event(2)
        rig.send(1)
        receive = functools.partial(rig.forwarder.receive, rig.sender, event=full, severity="security")
        rig.forwarder.expect(full.event_id)
        try:
            with moment:
                receive()
        except TimeUp:
            if rig.forwarder.interrupted(full.event_id):
                # The trail, which is called for that, announces it again.
                receive()
        assert rig.outcomes == {"2": "buffer_full"}
        await rig.background.settle()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
async def test_an_alert_that_is_interrupted_holds_up_no_other() -> None:
    """Wherever a signal handler raises while an alert is sent, that alert has a report, and the next is sent."""
    for moment in moments(Path(_forwarding.__file__), TimeUp):
        rig = Rig(Dispatcher(), concurrency=1)
        async with rig:
            with contextlib.suppress(TimeUp), moment:
                rig.send(1)
                await rig.background.settle()
            rig.send(2)
            await rig.background.settle()
        assert rig.outcomes["2"] == "dispatched"
        # Two, where it came right behind the first.
        assert [report.event.message for report in rig.reports].count("1") in {1, 2}


async def test_an_alert_that_is_interrupted_waits_for_no_other() -> None:
    """Wherever a signal handler raises while an alert is received, it is sent, and not with the next one only."""
    for moment in moments(Path(_forwarding.__file__), TimeUp):
        rig = Rig(Dispatcher())
        async with rig:
            try:
                with moment:
                    rig.send(1)
            except TimeUp:
                if not rig.forwarder.waiting:
                    rig.send(1)  # as the trail does, where it was not received
            await rig.background.settle()
            assert rig.outcomes == {"1": "dispatched"}


async def test_idle_then_failure_then_success() -> None:
    """Nothing of an alert outlives its turn: after a failure and a pause, the next is sent once, as itself."""
    async with Rig(dispatcher := Dispatcher(on_1=ValueError("v")), concurrency=1) as rig:
        for number in (1, 2, 3):
            rig.send(number)
            await anyio.sleep(100)
        assert dispatcher.sent == ["2", "3"]
        assert rig.outcomes == {"1": "error", "2": "dispatched", "3": "dispatched"}
        assert [report.waited for report in rig.reports] == pytest.approx([0, 0, 0])
